# SPDX-License-Identifier: GPL-3.0-or-later
"""Accepting clients, and running a session for each.

A session is a task of its own. Whatever goes wrong in it is reported and ends
that session alone. Entry points: `Acceptor.accept`, once for each listener, and
`Acceptor.hang_up`.
"""

import errno
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import count

import trio

from builder.options import Client
from storedaemon.logs import Logger
from storedaemon.peers import Peers
from storedaemon.session import Session
from storedaemon.sockets import Dialect, Listener

Serve = Callable[[socket.socket, Session], Awaitable[None]]
"""Runs one session on a non-blocking socket until the client hangs up."""

OpenSession = Callable[[Client, Dialect], Session]
"""Makes the session of a client that was just identified."""

# The system is short of something that other sessions will give back.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE_SECONDS = 0.1


class Acceptor:
    """Accepts clients and runs their sessions.

    Args:
        peers: Identifies clients.
        open_session: Makes sessions.
        dialects: How each dialect is served.
        sessions: Where sessions are listed while they last, by number.
        limit: How many clients there may be at once.
        log: The daemon's logger.
    """

    def __init__(
        self,
        peers: Peers,
        open_session: OpenSession,
        dialects: Mapping[Dialect, Serve],
        sessions: dict[int, Session],
        limit: int,
        log: Logger,
    ) -> None:
        self._peers = peers
        self._open_session = open_session
        self._dialects = dialects
        self._sessions = sessions
        self._places = trio.CapacityLimiter(limit)
        self._log = log
        self._numbers = count(1)
        self._sockets: set[socket.socket] = set()

    async def accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        """Accept clients of one listener until cancelled; their sessions run in `nursery`."""
        while True:
            place = object()
            await self._wait_for_place(place)
            try:
                sock = await self._next(listener)
            except BaseException:
                self._places.release_on_behalf_of(place)
                raise
            self._sockets.add(sock)
            nursery.start_soon(self._run, sock, listener, place)

    async def _wait_for_place(self, place: object) -> None:
        try:
            self._places.acquire_on_behalf_of_nowait(place)
        except trio.WouldBlock:
            self._log.warning("too many connections", limit=self._places.total_tokens)
            await self._places.acquire_on_behalf_of(place)

    async def _next(self, listener: Listener) -> socket.socket:
        while True:
            try:
                sock, _ = listener.socket.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(listener.socket)
            except OSError as error:
                await self._survive(error, listener)
            else:
                # A crowd of newcomers must not keep those who are here waiting.
                await trio.lowlevel.cancel_shielded_checkpoint()
                sock.setblocking(False)
                return sock

    async def _survive(self, error: OSError, listener: Listener) -> None:
        """Take note that accepting failed; accept(2) also hands on what befell the newcomer."""
        self._log.warning("cannot accept", listener=listener.address, error=str(error))
        if error.errno in SHORTAGES:
            await trio.sleep(PAUSE_SECONDS)
        else:
            await trio.lowlevel.checkpoint()

    async def _run(self, sock: socket.socket, listener: Listener, place: object) -> None:
        try:
            await self._contain(sock, listener)
        finally:
            self._sockets.discard(sock)
            sock.close()
            self._places.release_on_behalf_of(place)

    async def _contain(self, sock: socket.socket, listener: Listener) -> None:
        """Run a session, and keep to it whatever goes wrong there."""
        number = next(self._numbers)
        try:
            if listener.is_remote:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = await self._peers.identify(sock, number)
            await self._serve(sock, listener, client)
        except* ConnectionError as group:
            self._log.info("connection lost", session=number, error=str(group.exceptions[0]))
        except* Exception:  # noqa: BLE001 - reported, and no other session's business
            self._log.exception("session crashed", session=number)

    async def _serve(self, sock: socket.socket, listener: Listener, client: Client) -> None:
        session = self._open_session(client, listener.dialect)
        session.log.info("connected", uid=client.uid, pid=client.pid, user=client.user)
        started = time.perf_counter()
        self._sessions[session.id] = session
        try:
            await self._dialects[listener.dialect](sock, session)
        finally:
            del self._sessions[session.id]
            session.close()
            session.log.info("disconnected", seconds=round(time.perf_counter() - started, 3))

    def hang_up(self) -> None:
        """End the connection of every client, so that threads that read from one come back."""
        for sock in self._sockets:
            with suppress(OSError):  # it is gone already
                sock.shutdown(socket.SHUT_RDWR)
