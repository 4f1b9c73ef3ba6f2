# SPDX-License-Identifier: GPL-3.0-or-later
"""One request of a native client while it is served: its parameters, its body, its stream."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from builder.events import BuildEvent
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.sessions.native_sender import FrameSender
from storedaemon.wire.native import messages
from storedaemon.wire.native.connection import ServerConnection
from storedaemon.wire.native.events import event_fields
from storedaemon.wire.native.frames import PREFIX
from storedaemon.wire.native.messages import encode_message
from storedaemon.wire.native.params import Params


class Call:
    """One request.

    Args:
        request: The request as it came.
        services: The daemon's.
        session: The client's.
        connection: Counts the windows.
        sender: Writes frames.

    Attributes:
        params: The request's parameters.
        scope: Cancelled when the client no longer wants the request served.
    """

    __slots__ = (
        "_body",
        "_complete",
        "_connection",
        "_credited",
        "_fed",
        "_given",
        "_sender",
        "id",
        "method",
        "params",
        "scope",
        "services",
        "session",
    )

    def __init__(
        self,
        request: messages.Request,
        services: Services,
        session: Session,
        connection: ServerConnection,
        sender: FrameSender,
    ) -> None:
        self.id = request.id
        self.method = request.method
        self.params = Params(request.method, request.params)
        self.services = services
        self.session = session
        self.scope = trio.CancelScope()
        self._connection = connection
        self._sender = sender
        self._body: deque[tuple[bytes, int]] = deque()
        self._given = 0
        self._complete = False
        self._fed = trio.lowlevel.ParkingLot()
        self._credited = trio.lowlevel.ParkingLot()

    def feed(self, data: bytes, length: int) -> None:
        """Take a part of the body; the window bounds how much waits here."""
        self._body.append((data, length))
        self._fed.unpark_all()

    def end_body(self) -> None:
        """Note that the body is complete."""
        self._complete = True
        self._fed.unpark_all()

    def credited(self) -> None:
        """Note that the client gave credit."""
        self._credited.unpark_all()

    async def next_of_body(self) -> list[bytes]:
        """Give all of the body that is there; wait for some where none is. Empty at its end.

        Credit for what was given is returned when more is asked for, so that
        whoever uses a body slowly slows the client down and fills no memory.
        """
        if self._given:
            given, self._given = self._given, 0
            await self._give_credit(given)
        while not self._body and not self._complete:
            await self._fed.park()
        taken = list(self._body)
        self._body.clear()
        self._given = sum(length for _, length in taken)
        return [data for data, _ in taken]

    async def send_events(self, event: BuildEvent) -> None:
        """Tell the client of a build event, once its window has room."""
        for name, fields in event_fields(event):
            await self.send_event(name, fields)

    async def send_event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Send one event, once the window has room."""
        await self._stream(encode_message(messages.Event(self.id, name, fields)))

    async def send_chunk(self, data: bytes) -> None:
        """Send a part of the stream that was asked for, once the window has room."""
        await self._stream(encode_message(messages.Chunk(self.id, data)))

    async def _stream(self, frame: bytes) -> None:
        length = len(frame) - PREFIX.size
        window = self._connection.window_of(self.id)
        while not window.fits(length):
            await self._credited.park()
        window.sent(length)
        rest = self._sender.send_now(frame)
        if rest is not None:
            await self._sender.send(rest)

    async def _give_credit(self, length: int) -> None:
        credit = self._connection.consumed(self.id, length)
        if credit:
            await self._sender.send(encode_message(messages.Credit(self.id, credit)))


Result = Mapping[str, Any]
Handler = Callable[[Call], Awaitable[Result]]
