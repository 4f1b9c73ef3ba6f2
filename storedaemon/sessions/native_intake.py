# SPDX-License-Identifier: GPL-3.0-or-later
"""What one native connection has received and not dealt with, within the memory of all requests.

A connection counts as one long request does: requests that are not answered, bodies that wait
or are collected, and the frame that is under way, from when its length is known. One that
counted each request by itself could wait for memory to receive what its other requests need
to end. Entry point: `Intake`.
"""

from collections.abc import Callable

from storedaemon.request_memory import RequestMemory


class Intake:
    """What a connection has received.

    Args:
        memory: That of all requests.
        owes: Tells whether it is the client's turn to go on.

    Attributes:
        held: Bytes of requests and bodies.
        share: What counts of that.
    """

    __slots__ = ("_frame", "held", "share")

    def __init__(self, memory: RequestMemory, owes: Callable[[], bool]) -> None:
        self.share = memory.share()
        self.share.owes = owes
        self._frame = 0
        self.held = 0

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing when last looked at."""
        return not (self.held or self._frame)

    async def expect(self, frame: int) -> None:
        """Return when there is room for the frame that is under way."""
        self._frame = frame
        self.share.lower(self.held + frame)
        await self.share.hold(self.held + frame)

    def take(self, size: int) -> None:
        """Count bytes that a request holds from now on."""
        self.held += size

    def give_back(self, size: int) -> None:
        """Count them no more."""
        self.held -= size
        self.share.lower(self.held + self._frame)
