# SPDX-License-Identifier: GPL-3.0-or-later
"""One request of a native client while it is served: its parameters, its body, its stream."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from builder.events import BuildEvent
from storedaemon.request_memory import SilentClientError
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.sessions.native_intake import Intake
from storedaemon.sessions.native_sender import FrameSender
from storedaemon.wire.native import messages
from storedaemon.wire.native.connection import MAX_HELD, ServerConnection
from storedaemon.wire.native.events import event_fields
from storedaemon.wire.native.faults import RequestError
from storedaemon.wire.native.frames import PREFIX
from storedaemon.wire.native.messages import encode_message
from storedaemon.wire.native.params import Params


class Call:
    """One request.

    Args:
        request: The request as it came.
        serving: Its method.
        services: The daemon's.
        session: The client's.
        connection: Counts the windows.
        sender: Writes frames.
        intake: Counts what the request holds in memory.

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
        "_held",
        "_intake",
        "_sender",
        "_silent",
        "hungry",
        "id",
        "method",
        "params",
        "scope",
        "services",
        "serving",
        "session",
    )

    def __init__(
        self,
        request: messages.Request,
        serving: "Method",
        services: Services,
        session: Session,
        connection: ServerConnection,
        sender: FrameSender,
        intake: Intake,
    ) -> None:
        self.id = request.id
        self.method = request.method
        self.params = Params(request.method, request.params)
        self.serving = serving
        self.services = services
        self.session = session
        self.scope = trio.CancelScope()
        self._connection = connection
        self._sender = sender
        self._intake = intake
        self._held = 0
        self._silent: SilentClientError | None = None
        self.hungry = False
        self._body: deque[tuple[bytes, int]] = deque()
        self._given = 0
        self._complete = False
        self._fed = trio.lowlevel.ParkingLot()
        self._credited = trio.lowlevel.ParkingLot()

    def hold(self, length: int) -> None:
        """Count bytes that are in memory for this request, unless it may last."""
        if not self.serving.lasts:
            self._held += length
            self._intake.take(length)

    def let_go(self, length: int | None = None) -> None:
        """Count them no more; by default, all of them."""
        freed = self._held if length is None else min(length, self._held)
        if freed:
            self._held -= freed
            self._intake.give_back(freed)

    def feed(self, data: bytes, length: int) -> None:
        """Take a part of the body; the window bounds how much waits here."""
        if self.serving.takes_body:
            self.hold(length)
            self._body.append((data, length))
            self._fed.unpark_all()

    def end_body(self) -> None:
        """Note that the body is complete."""
        self._complete = True
        self._fed.unpark_all()

    def credited(self) -> None:
        """Note that the client gave credit."""
        self._credited.unpark_all()

    @property
    def owed(self) -> bool:
        """Whether it holds memory, and can only go on when the client does."""
        return self._held > 0 and self.hungry

    def fall_silent(self, error: SilentClientError) -> None:
        """Wait for the body no longer."""
        self._silent = error
        self._fed.unpark_all()

    async def next_of_body(self, *, keep: bool = False) -> list[bytes]:
        """Give all of the body that is there; wait for some where none is. Empty at its end.

        Credit for what was given is returned when more is asked for, so that
        whoever uses a body slowly slows the client down and fills no memory.

        Args:
            keep: Whether what was given before is still in memory.

        Raises:
            SilentClientError: The client took too long, and others wait for memory.
            RequestError: All that the connection keeps is too much.
        """
        if self._given:
            given, self._given = self._given, 0
            if not keep:
                self.let_go(given)
            elif self._intake.held > MAX_HELD:
                raise RequestError(
                    "too-large", f"this connection's requests have more than {MAX_HELD} bytes"
                )
            await self._give_credit(given)
        self.hungry = True
        while not self._body and not self._complete:
            if self._silent is not None:
                raise self._silent
            await self._fed.park()
        self.hungry = False
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
            self.let_go()  # who reads slowly keeps no room from others
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


@dataclass(frozen=True, slots=True)
class Method:
    """How one method is served.

    Attributes:
        handler: What serves it.
        at_once: Whether it never waits for anything.
        takes_body: Whether chunks are for it.
        lasts: Whether it may wait for others, or take as long as a build; then it does not
            count among the requests that are in memory, since nobody knows when there would
            be room again.
    """

    handler: Handler
    at_once: bool = False
    takes_body: bool = False
    lasts: bool = False
