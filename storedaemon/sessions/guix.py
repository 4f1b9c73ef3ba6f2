# SPDX-License-Identifier: GPL-3.0-or-later
"""Serving one Guix client: the handshake, then one request after the other.

A request that cannot be read ends the connection after its ERROR, because
nobody knows where the next one begins; one that was read and cannot be done is
answered with ERROR, and the next may come. Questions that the database answers are
served as soon as it is open; what else there is (`storedaemon.sessions.guix_work`)
needs all services, and waits for them. Entry point: `serve_guix`.
"""

import contextlib
import socket
import time
from collections.abc import Awaitable
from operator import attrgetter
from typing import TYPE_CHECKING

import trio

from locker.errors import HelperError
from store import turns
from store.errors import StoreError
from store.helper_errors import as_store_error
from storedaemon.basics import Basics, Later
from storedaemon.request_memory import SilentClientError
from storedaemon.session import Session
from storedaemon.sessions.guix_queries import QUERIES, set_options
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

if TYPE_CHECKING:
    from storedaemon.services import Services
    from storedaemon.sessions.guix_work import Work

TURN = 32
"""Requests that are answered in a row before other sessions get their turn."""

PORTION = 64 * 1024
"""Bytes of one long request that are read in a row: about a millisecond of work."""

_LISTS = {
    m.TextsReply: attrgetter("values"),
    m.GarbageReply: attrgetter("paths"),
    m.RootsReply: attrgetter("roots"),
    m.SubstitutablesReply: attrgetter("infos"),
}
"""What there can be any number of in a reply."""

LINGER_SECONDS = 5.0
"""How long a client that is being told to go may keep sending."""


async def serve_guix(
    sock: socket.socket, session: Session, basics: Basics, services: "Later[Services]"
) -> None:
    """Serve a client until it hangs up or cannot be understood.

    Args:
        sock: The client's socket, non-blocking; the caller closes it.
        session: The client's session.
        basics: What there is from the beginning.
        services: All that the daemon has.
    """
    connection = _Connection(sock, session, basics, services)
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
        basics: What there is from the beginning.
        services: All that the daemon has.
    """

    def __init__(
        self, sock: socket.socket, session: Session, basics: Basics, services: "Later[Services]"
    ) -> None:
        self._sock = sock
        self._receiver = Receiver(sock)
        self._session = session
        self._basics = basics
        self._services = services
        self._wire = GuixSession()
        self._received = 0
        self._memory = basics.request_memory.share()
        self._work: Work | None = None
        self._options: m.SetOptions | None = None

    def end(self) -> None:
        """Leave nothing unread in the socket: closing it would reset the connection."""
        # Who is gone already needs no orderly end.
        with contextlib.suppress(ClientGoneError):
            self._receiver.settle()
        if self._work is not None:
            self._work.end()
        self._wire.close()
        self._memory.release()

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
            await self._give_up(error, self._wire.error(error.message))
        except SilentClientError as error:
            await self._give_up(error, self._wire.refuse(error.message))

    async def _answer_some(self) -> bool:
        """Answer a turn's requests; tell whether the client is still there."""
        sock, wire = self._sock, self._wire
        for _ in range(TURN):
            found = wire.next_request() if wire.pending else None
            while found is None:
                if not await self._receive():
                    return False
                found = wire.next_request()
            answer = await self._answer(*found)
            if self._received >= PORTION:
                self._memory.release()
            self._received = 0
            sent = send_now(sock, answer)
            if sent < len(answer):
                await send(sock, answer[sent:])
        return True

    async def _receive(self) -> bool:
        data = self._receiver.receive_now()
        if data is None:
            data = await self._wait_for_data()
        if data:
            self._wire.receive_data(data)
            self._received += len(data)
            if self._received % PORTION < len(data):
                await self._memory.hold(self._received)
                await trio.lowlevel.checkpoint()
        elif not self._wire.at_boundary:
            raise ClientGoneError("the connection ended within a message")
        return bool(data)

    def _wait_for_data(self) -> Awaitable[bytes]:
        return self._listen() if self._memory.size else self._receiver.receive()

    async def _listen(self) -> bytes:
        with self._memory.listening():
            return await self._receiver.receive()

    async def _give_up(self, error: RemoteError | SilentClientError, answer: bytes) -> None:
        self._session.log.info("bad request", reason=error.reason, error=error.message)
        self._wire.close()
        self._memory.release()
        self._receiver.settle()
        await send(self._sock, answer)
        await linger(self._sock, LINGER_SECONDS)

    async def _answer(self, operation: Operation, request: m.Request) -> bytes:
        """Do what a request asks; give the answer."""
        session = self._session
        session.operation = operation.name
        started = time.perf_counter() if session.rpc_log.enabled else 0.0
        outcome = "ok"
        try:
            reply = await self._perform(request)
            if type(reply) in _LISTS and _is_long(reply):
                answer = await trio.to_thread.run_sync(self._wire.reply, operation, reply)
            else:
                answer = self._wire.reply(operation, reply)
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
        # What there is most of goes the shortest way.
        query = QUERIES.get(type(request))
        if query is not None:
            return query(self._basics, self._session, request)
        return self._perform_other(request)

    async def _perform_other(self, request: m.Request) -> m.Reply:
        if isinstance(request, m.SetOptions):
            reply = await set_options(self._basics, self._session, request)
            self._options = request
            if self._work is not None:
                self._work.tell_as(request)
            return reply
        return await (self._work or await self._begin_work()).perform(request)

    async def _begin_work(self) -> "Work":
        services = await self._services.get()
        # It is there once the services are; before that, nobody waits for it to be imported.
        from storedaemon.sessions.guix_work import Work  # noqa: PLC0415

        self._work = Work(
            self._sock, self._receiver, self._wire, services, self._session, self._memory
        )
        if self._options is not None:
            self._work.tell_as(self._options)
        return self._work


def _describe(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


def _is_long(reply: m.Reply) -> bool:
    """Tell whether it takes more than a few milliseconds to write a reply."""
    return len(_LISTS[type(reply)](reply)) > turns.PORTION
