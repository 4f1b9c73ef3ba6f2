# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves one native connection: reads messages, runs requests side by side, answers.

The task that reads never waits for requests, so that credit and cancellation get
through; for memory it waits while the connection has much of it. A request that is
answered from memory or by an indexed look-up is answered by the reading task itself;
every other has a task of its own. What fails in one request ends that request; what
breaks the protocol ends the connection, after a message that names the fault.

Entry point: `serve_native`.
"""

import os
import socket
import time
from operator import attrgetter

import trio

from locker.errors import HelperError
from store.errors import StoreError
from store.helper_errors import as_store_error
from storedaemon.request_memory import SilentClientError
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.sessions.native_call import Call
from storedaemon.sessions.native_intake import Intake
from storedaemon.sessions.native_methods import METHODS, UNKNOWN
from storedaemon.sessions.native_sender import FrameSender
from storedaemon.sessions.sockets import ClientGoneError, linger
from storedaemon.version import VERSION as DAEMON_VERSION
from storedaemon.wire.native import messages
from storedaemon.wire.native.connection import (
    FEATURES,
    VERSION,
    ServerConnection,
    limits,
)
from storedaemon.wire.native.faults import FaultError
from storedaemon.wire.native.messages import encode_message

_READ_SIZE = 16_384
_BODY_READ_SIZE = 262_144
_FAULT_SECONDS = 1.0
"""How long a client that broke the protocol may take to be told so."""


async def serve_native(sock: socket.socket, session: Session, services: Services) -> None:
    """Serve a client until it hangs up or breaks the protocol.

    Hanging up ends all that only this client wanted. The socket stays the
    caller's to close.

    Args:
        sock: Connected, not blocking.
        session: The client's.
        services: The daemon's.
    """
    try:
        await NativeConnection(sock, session, services).run()
    except* ClientGoneError as gone:
        session.log.debug("client gone", error=str(gone.exceptions[0]))


class NativeConnection:
    """One connection and the requests on it."""

    def __init__(self, sock: socket.socket, session: Session, services: Services) -> None:
        self._sock = sock
        self._services = services
        self._session = session
        self._state = ServerConnection()
        self._sender = FrameSender(sock)
        self._calls: dict[int, Call] = {}
        self._intake = Intake(services.request_memory, self._owed)

    async def run(self) -> None:
        """Serve until the client hangs up or breaks the protocol."""
        fault: messages.Fault | None = None
        async with trio.open_nursery() as nursery:
            await self._sender.send(encode_message(self._hello()))
            try:
                await self._read(nursery)
            except FaultError as error:
                # Not the error itself: its traceback holds this frame, and the two would
                # keep what was received in memory until a collection of cycles.
                fault = messages.Fault(error.reason, error.message)
            finally:
                self._intake.share.release()
            nursery.cancel_scope.cancel()
        if fault:
            await self._tell(fault)

    async def _tell(self, fault: messages.Fault) -> None:
        """Tell a client what it did wrong, and let it read that."""
        self._session.log.info("protocol fault", reason=fault.reason, text=fault.message)
        with trio.move_on_after(_FAULT_SECONDS):
            await self._sender.send(encode_message(fault))
        await linger(self._sock, _FAULT_SECONDS)

    async def _read(self, nursery: trio.Nursery) -> None:
        while data := await self._receive():
            for message, length in self._state.receive(data):
                await self._handle(message, length, nursery)
            if (frame := self._state.frame) or not self._intake.is_empty:
                await self._intake.expect(frame)
        self._state.end_of_input()

    async def _receive(self) -> bytes:
        share = self._intake.share
        while share.size:
            try:
                with share.listening():
                    return await self._receive_some()
            except SilentClientError as error:
                if self._state.frame:
                    raise FaultError(error.reason, error.message) from error
                for call in filter(attrgetter("owed"), self._calls.values()):
                    call.fall_silent(error)
        return await self._receive_some()

    def _owed(self) -> bool:
        """Tell whether what is in memory waits for the client to go on."""
        return self._state.frame > 0 or any(call.owed for call in self._calls.values())

    async def _receive_some(self) -> bytes:
        size = _BODY_READ_SIZE if self._state.frame else _READ_SIZE
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(size)
            except BlockingIOError:
                continue
            except OSError:
                return b""  # A reset is a hang-up.

    async def _handle(self, message: messages.Message, length: int, nursery: trio.Nursery) -> None:
        match message:
            case messages.Request():
                await self._begin(message, length, nursery)
            case messages.Chunk(id=request, data=data):
                self._calls[request].feed(data, length)
            case messages.End(id=request):
                self._calls[request].end_body()
            case messages.Credit(id=request):
                self._calls[request].credited()
            case messages.Cancel(id=request):
                self._calls[request].scope.cancel()
            case messages.ClientHello(client=name):
                self._session.log.debug("hello", client=name)

    async def _begin(self, request: messages.Request, length: int, nursery: trio.Nursery) -> None:
        method = METHODS.get(request.method, UNKNOWN)
        call = Call(
            request, method, self._services, self._session, self._state, self._sender, self._intake
        )
        self._calls[request.id] = call
        if not method.at_once:
            call.hold(length)
            nursery.start_soon(self._run, call)
            return
        rest = self._sender.send_now(await self._answer(call))
        if rest is None:
            self._finish(call)
        else:
            nursery.start_soon(self._send_late, call, rest)

    async def _run(self, call: Call) -> None:
        answer = b""
        with call.scope:
            answer = await self._answer(call)
        if not answer:
            failure = messages.Failure(call.id, "cancelled", "the client withdrew the request")
            answer = encode_message(failure)
        await self._send_late(call, answer)

    async def _send_late(self, call: Call, frame: bytes) -> None:
        # Until the answer is written the request counts as in flight: a client
        # that does not read cannot pile up answers. But it keeps no room from others.
        call.let_go()
        await self._sender.send(frame)
        self._finish(call)

    def _finish(self, call: Call) -> None:
        self._state.finish(call.id)
        del self._calls[call.id]

    async def _answer(self, call: Call) -> bytes:
        """Run a request; give the frame of its reply, or of its error."""
        log = self._session.rpc_log
        started = time.perf_counter() if log.enabled else 0.0
        self._session.operation = call.method
        outcome: messages.Reply | messages.Failure
        try:
            outcome = messages.Reply(call.id, await call.serving.handler(call))
        except (StoreError, OSError) as error:
            outcome = failure_of(call.id, error)
        except HelperError as error:
            self._session.log.warning("helper failed", method=call.method, error=error.message)
            outcome = failure_of(call.id, as_store_error(error))
        except ClientGoneError:
            raise
        except Exception as error:
            # A fault of ours in one request must not end the others; the log has the traceback.
            self._session.log.exception("request failed", method=call.method)
            outcome = messages.Failure(call.id, "internal", f"internal error: {error!r}")
        finally:
            self._session.operation = ""
        if log.enabled:
            log.finished(call.method, started, getattr(outcome, "reason", "ok"))
        return encode_message(outcome)

    def _hello(self) -> messages.ServerHello:
        return messages.ServerHello(
            versions=(VERSION, VERSION),
            features=FEATURES,
            limits=limits(),
            daemon=f"storedaemon {DAEMON_VERSION}",
            store=self._services.layout.store,
            system=self._services.settings.system,
            trusted=self._session.client.trusted,
        )


def failure_of(request: int, error: StoreError | OSError) -> messages.Failure:
    """Make the error message for what an operation raised."""
    if isinstance(error, OSError):
        name = os.fsdecode(error.filename) if error.filename else "the daemon"
        return messages.Failure(request, "system", f"{name}: {error.strerror or error}")
    details = dict(getattr(error, "details", {}))
    if error.status != 1:
        details["status"] = error.status
    return messages.Failure(request, error.reason, error.message, details)
