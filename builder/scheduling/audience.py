# SPDX-License-Identifier: GPL-3.0-or-later
"""Those who follow a build, and how they are told what happens.

Each request has a queue. What its client cannot be told at once waits there. Events
about the course of builds always enter: they are small, and there are a few for each
build. Log output enters while the queue holds less than a bound; beyond it a sole
follower slows the builder down, as a terminal would, but where others follow too the
slow one loses output instead.
"""

from collections import deque
from collections.abc import Callable, Iterator

import trio

from builder.events import (
    BuildEvent,
    BuildLog,
    Level,
    Message,
    SubstituteProgress,
    SubstituterOutput,
)

LOG_BOUND = 1024 * 1024
"""Bytes of log output that may wait for one client; a few screens of the chattiest builder."""


LogEvent = BuildLog | SubstituterOutput | SubstituteProgress
"""What there can be any amount of."""

_LOG_EVENTS = (BuildLog, SubstituterOutput, SubstituteProgress)
_PROGRESS_SIZE = 128
_TAIL_SIZE = 240


def _size(event: LogEvent) -> int:
    """Return how much of the bound an event takes up."""
    return _PROGRESS_SIZE if isinstance(event, SubstituteProgress) else len(event.data)


TellNow = Callable[[BuildEvent], bool]
"""Tells of an event if that needs no waiting, and says whether it did; raises nothing."""


class EventQueue:
    """The events that one request has not been told yet.

    Args:
        tell_now: Asked while whoever reads the queue waits for an event, which spares a
            pass of the loop; what it has told does not enter the queue.
    """

    def __init__(self, tell_now: TellNow | None = None) -> None:
        self._tell_now = tell_now
        self._events: deque[BuildEvent] = deque()
        self._log_size = 0
        self._left_out = 0
        self._closed = False
        self._filled = trio.lowlevel.ParkingLot()
        self._drained = trio.lowlevel.ParkingLot()

    @property
    def has_room(self) -> bool:
        """Whether log output may enter."""
        return self._log_size < LOG_BOUND or self._closed

    def put(self, event: BuildEvent) -> None:
        """Add an event, whatever the queue holds."""
        if self._closed:
            return
        reader_waits = bool(self._filled)
        if reader_waits and self._tell_now is not None and self._tell_now(event):
            return
        if isinstance(event, _LOG_EVENTS):
            if isinstance(event, BuildLog):
                self._confess()
            self._log_size += _size(event)
        self._events.append(event)
        if reader_waits:
            self._filled.unpark()

    def offer(self, event: LogEvent) -> None:
        """Add output if there is room, and otherwise leave it out."""
        if self.has_room:
            self.put(event)
        elif not isinstance(event, SubstituteProgress):
            self.leave_out(len(event.data))

    def leave_out(self, size: int) -> None:
        """Note that `size` bytes of output were not added."""
        self._left_out += size

    def close(self) -> None:
        """Say that nothing will be added; nobody waits for room any more."""
        self._closed = True
        self._filled.unpark_all()
        self._drained.unpark_all()

    async def wait_for_room(self) -> None:
        """Wait until log output may enter."""
        while not self.has_room:
            await self._drained.park()

    def __aiter__(self) -> "EventQueue":
        return self

    async def __anext__(self) -> BuildEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            await self._filled.park()
        event = self._events.popleft()
        if isinstance(event, _LOG_EVENTS):
            self._log_size -= _size(event)
            if self.has_room:
                self._drained.unpark_all()
        return event

    def _confess(self) -> None:
        if self._left_out:
            text = (
                f"({self._left_out} bytes of build output were left out: this client reads slowly)"
            )
            self._left_out = 0
            self._events.append(Message(text, Level.INFO))


class Audience:
    """The queues of the requests that follow one build.

    Attributes:
        observer: Called with each event of the build's course; it must not wait.
    """

    def __init__(self) -> None:
        self._queues: list[EventQueue] = []
        self._tail = b""
        self.observer: Callable[[BuildEvent], None] | None = None

    @property
    def last_line(self) -> str:
        """The last line that the builder printed, or the end of it, as it came."""
        lines = self._tail.rstrip(b"\r\n").replace(b"\r", b"\n").rpartition(b"\n")
        return lines[2].decode("utf-8", "replace")

    def __iter__(self) -> Iterator[EventQueue]:
        return iter(self._queues)

    def add(self, queue: EventQueue) -> None:
        """Let a request follow from now on."""
        self._queues.append(queue)

    def remove(self, queue: EventQueue) -> None:
        """Let a request follow no longer."""
        self._queues.remove(queue)

    def tell(self, event: BuildEvent) -> None:
        """Tell all about the course of the build."""
        for queue in self._queues:
            queue.put(event)
        if self.observer is not None:
            self.observer(event)

    async def tell_log(self, event: LogEvent) -> None:
        """Tell all what the builder printed; waits only for a sole follower."""
        if isinstance(event, BuildLog):
            # What is short may be the middle of a line.
            self._tail = (self._tail + event.data)[-_TAIL_SIZE:]
        if len(self._queues) == 1:
            await self._queues[0].wait_for_room()
        for queue in self._queues:
            queue.offer(event)
