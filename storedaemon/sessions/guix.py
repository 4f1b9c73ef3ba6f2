# SPDX-License-Identifier: GPL-3.0-or-later
"""Serving one Guix client: the handshake, then one request after the other.

A request that cannot be read ends the connection after its ERROR, because
nobody knows where the next one begins; one that was read and cannot be done is
answered with ERROR, and the next may come. While a long request is worked on, a
client that hangs up ends it. Entry point: `serve_guix`.
"""

import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from builder.events import BuildEvent
from locker.errors import HelperError
from store.errors import StoreError
from store.helper_errors import as_store_error
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.sessions.guix_additions import add_to_store
from storedaemon.sessions.guix_exports import export_path, import_paths
from storedaemon.sessions.guix_operations import HANDLERS, LONG
from storedaemon.sessions.guix_output import Audience, render
from storedaemon.sessions.hangups import ends_at_hang_up
from storedaemon.sessions.receiver import Receiver
from storedaemon.sessions.sockets import (
    ClientGoneError,
    linger,
    send,
    send_now,
)
from storedaemon.wire import messages as m
from storedaemon.wire.errors import RemoteError
from storedaemon.wire.guix import Operation
from storedaemon.wire.session import GuixSession, Introduction, State

TURN = 32
"""Requests that are answered in a row before other sessions get their turn."""

PORTION = 64 * 1024
"""Bytes of one long request that are read in a row: about a millisecond of work."""

LINGER_SECONDS = 5.0
"""How long a client that is being told to go may keep sending."""


async def serve_guix(sock: socket.socket, session: Session, services: Services) -> None:
    """Serve a client until it hangs up or cannot be understood.

    Args:
        sock: The client's socket, non-blocking; the caller closes it.
        session: The client's session.
        services: The daemon's.
    """
    connection = _Connection(sock, session, services)
    try:
        if await connection.greet():
            await connection.answer_requests()
    except ClientGoneError as error:
        session.log.debug("client gone", error=str(error), operation=session.operation)
    finally:
        connection.end()


class _Connection:
    """One client's connection.

    Args:
        sock: The client's socket.
        session: The client's session.
        services: The daemon's.
    """

    def __init__(self, sock: socket.socket, session: Session, services: Services) -> None:
        self._sock = sock
        self._receiver = Receiver(sock)
        self._session = session
        self._services = services
        self._wire = GuixSession()
        self._audience = Audience()
        self._received = 0
        self._special: dict[type[Any], Callable[[Any], Awaitable[m.Reply]]] = {
            m.AddToStore: self._add,
            m.SetOptions: self._set_options,
            m.ExportPath: self._export,
            m.ImportPaths: self._import,
            **dict.fromkeys(LONG, self._perform_watched),
        }

    def end(self) -> None:
        """Leave nothing unread in the socket: closing it would reset the connection."""
        # Who is gone already needs no orderly end.
        with contextlib.suppress(ClientGoneError):
            self._receiver.settle()
        # The table of methods refers back to us: without this, what was received of
        # a request would stay in memory until a collection that may be long in coming.
        self._special.clear()
        self._wire.close()

    # The handshake

    async def greet(self) -> bool:
        """Exchange versions; tell whether the client may go on."""
        try:
            while not isinstance(step := self._wire.next_greeting(), Introduction):
                if step is not None:
                    await send(self._sock, step.answer)
                elif not await self._receive():
                    return False
        except RemoteError as error:
            await self._turn_away(error)
            return False
        await send(self._sock, self._wire.accept())
        return True

    async def _turn_away(self, error: RemoteError) -> None:
        self._session.log.warning("handshake failed", reason=error.reason, error=error.message)
        # A peer whose first word was another protocol's could not read an answer.
        if self._wire.state is not State.GREETING:
            self._receiver.settle()
            await send(self._sock, self._wire.refuse(error.message))
            await linger(self._sock, LINGER_SECONDS)

    # Requests

    async def answer_requests(self) -> None:
        """Answer requests until the client hangs up or cannot be understood."""
        try:
            while await self._answer_some():
                await trio.lowlevel.checkpoint()
        except RemoteError as error:
            await self._give_up(error)

    async def _answer_some(self) -> bool:
        """Answer a turn's requests; tell whether the client is still there."""
        sock, wire = self._sock, self._wire
        for _ in range(TURN):
            while not wire.pending or (found := wire.next_request()) is None:
                if not await self._receive():
                    return False
            answer = await self._answer(*found)
            sent = send_now(sock, answer)
            if sent < len(answer):
                await send(sock, answer[sent:])
        return True

    async def _receive(self) -> bool:
        data = self._receiver.receive_now()
        if data is None:
            data = await self._receiver.receive()
        if data:
            self._wire.receive_data(data)
            self._received += len(data)
            if self._received >= PORTION:
                self._received = 0
                await trio.lowlevel.checkpoint()
        elif not self._wire.at_boundary:
            raise ClientGoneError("the connection ended within a message")
        return bool(data)

    async def _give_up(self, error: RemoteError) -> None:
        self._session.log.info("bad request", reason=error.reason, error=error.message)
        self._receiver.settle()
        await send(self._sock, self._wire.error(error.message))
        await linger(self._sock, LINGER_SECONDS)

    async def _answer(self, operation: Operation, request: m.Request) -> bytes:
        """Do what a request asks; give the answer."""
        session = self._session
        session.operation = operation.name
        started = time.perf_counter() if session.rpc_log.enabled else 0.0
        outcome = "ok"
        try:
            answer = self._wire.reply(operation, await self._perform(request))
        except StoreError as error:
            answer, outcome = self._wire.error(error.message, error.status), error.reason
        except HelperError as error:
            told = as_store_error(error)
            session.log.warning("helper failed", operation=operation.name, error=error.message)
            answer, outcome = self._wire.error(told.message), told.reason
        except OSError as error:
            answer, outcome = self._wire.error(_describe(error)), "system"
        except (RemoteError, ClientGoneError):
            raise
        except Exception:
            # A bug of ours is this request's misfortune, and nobody else's.
            session.log.exception("operation crashed", operation=operation.name)
            outcome = "internal"
            answer = self._wire.error(f"internal error in operation {operation.name}")
        if started:
            session.rpc_log.finished(operation.name, started, outcome)
        session.operation = ""
        return answer

    def _perform(self, request: m.Request) -> Awaitable[m.Reply]:
        kind = type(request)
        special = self._special.get(kind)
        if special is not None:
            return special(request)
        return HANDLERS[kind](self._services, self._session, request, self._tell)

    async def _add(self, request: m.AddToStore) -> m.Reply:
        self._receiver.settle()
        return await add_to_store(self._sock, self._wire, self._services, self._session, request)

    async def _set_options(self, request: m.SetOptions) -> m.Reply:
        reply = await HANDLERS[m.SetOptions](self._services, self._session, request, self._tell)
        multiplexed = self._session.options.multiplexed_build_output
        self._audience = Audience.of(request, multiplexed=multiplexed)
        return reply

    async def _perform_watched(self, request: m.Request) -> m.Reply:
        """Do what may take long, unless the client hangs up."""
        kind = type(request)
        return await self._watched(
            HANDLERS[kind](self._services, self._session, request, self._tell)
        )

    async def _export(self, request: m.ExportPath) -> m.Reply:
        return await self._watched(
            export_path(self._sock, self._wire, self._services, self._session, request, self._tell)
        )

    async def _import(self, _: m.ImportPaths) -> m.Reply:
        self._receiver.settle()
        return await self._watched(
            import_paths(self._sock, self._wire, self._services, self._session)
        )

    async def _watched(self, work: Awaitable[m.Reply]) -> m.Reply:
        reply: m.Reply | None = None
        with ends_at_hang_up(self._sock):
            reply = await work
        if reply is None:
            raise ClientGoneError(f"it hung up during {self._session.operation}")
        return reply

    async def _tell(self, *events: BuildEvent) -> None:
        frames = [
            self._wire.log(text) for event in events for text in render(event, self._audience)
        ]
        if frames:
            await send(self._sock, b"".join(frames))


def _describe(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text
