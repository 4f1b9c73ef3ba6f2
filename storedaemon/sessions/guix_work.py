# SPDX-License-Identifier: GPL-3.0-or-later
"""What one Guix client asks for beyond what the database alone answers.

That is all that changes something or takes long, or whose data follows the request or
comes within the answer. While a long request is worked on, a client that hangs up
ends it. Entry point: `Work`.
"""

import socket
from collections.abc import Awaitable, Callable
from typing import Any

from storedaemon.request_memory import Share
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.sessions.guix_additions import add_to_store
from storedaemon.sessions.guix_exports import export_path, import_paths
from storedaemon.sessions.guix_operations import HANDLERS, LONG
from storedaemon.sessions.guix_output import Audience
from storedaemon.sessions.guix_telling import Teller
from storedaemon.sessions.hangups import ends_at_hang_up
from storedaemon.sessions.receiver import Receiver
from storedaemon.sessions.sockets import ClientGoneError
from storedaemon.wire import messages as m
from storedaemon.wire.session import GuixSession


class Work:
    """Performs the requests of one connection.

    Args:
        sock: The client's socket.
        receiver: Reads from it.
        wire: The connection's state.
        services: The daemon's.
        session: The client's session.
        memory: What the request at hand counts for.
    """

    def __init__(
        self,
        sock: socket.socket,
        receiver: Receiver,
        wire: GuixSession,
        services: Services,
        session: Session,
        memory: Share,
    ) -> None:
        self._sock = sock
        self._receiver = receiver
        self._wire = wire
        self._services = services
        self._session = session
        self._memory = memory
        self._tell = Teller(sock, wire.log)
        self._special: dict[type[Any], Callable[[Any], Awaitable[m.Reply]]] = {
            m.AddToStore: self._add,
            m.ExportPath: self._export,
            m.ImportPaths: self._import,
            **dict.fromkeys(LONG, self._perform_watched),
        }

    def end(self) -> None:
        """Let go of the connection.

        The table of methods refers back to us: without this, what was received of a
        request would stay in memory until a collection that may be long in coming.
        """
        self._special.clear()

    def tell_as(self, options: m.SetOptions) -> None:
        """Tell the client from now on what it wants to be told."""
        multiplexed = self._session.options.multiplexed_build_output
        self._tell.audience = Audience.of(options, multiplexed=multiplexed)

    def perform(self, request: m.Request) -> Awaitable[m.Reply]:
        """Do what a request asks.

        Raises:
            ClientGoneError: The client hung up.
            RemoteError: The client's data cannot be understood.
        """
        kind = type(request)
        special = self._special.get(kind)
        if special is not None:
            return special(request)
        return HANDLERS[kind](self._services, self._session, request, self._tell)

    async def _add(self, request: m.AddToStore) -> m.Reply:
        self._receiver.settle()
        return await add_to_store(self._sock, self._wire, self._services, self._session, request)

    async def _perform_watched(self, request: m.Request) -> m.Reply:
        """Do what may take long, unless the client hangs up.

        The request does not count any more: nobody knows when there would be room again.
        """
        self._memory.release()
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
