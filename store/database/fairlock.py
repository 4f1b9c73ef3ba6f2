# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock that orders this process's writers.

Whoever releases it hands it to the first in line, who runs next: no waiter
guesses when to look again, and none is overtaken.
"""

from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True)
class FairLockStatistics:
    """How a lock is used: who waits now, how often it was taken, how often that meant waiting."""

    waiting: int
    taken: int
    waited: int


class FairLock:
    """A lock for tasks, first come, first served.

    Use it as ``async with lock:``. Taking a free lock does not yield to other
    tasks, which makes a small write cheap; waiting is cancellable.
    """

    __slots__ = ("_held", "_queue", "_taken", "_waited")

    def __init__(self) -> None:
        self._queue = trio.lowlevel.ParkingLot()
        self._held = False
        self._taken = 0
        self._waited = 0

    async def acquire(self) -> None:
        """Take the lock, after all who asked earlier.

        Raises:
            trio.Cancelled: The lock is not held then.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.try_acquire():
            return
        self._waited += 1
        # The holder leaves `_held` set when it wakes us, so nobody can slip in between.
        await self._queue.park()
        self._taken += 1

    def try_acquire(self) -> bool:
        """Take the lock if it is free; return whether it was."""
        if self._held:
            return False
        self._held = True
        self._taken += 1
        return True

    def release(self) -> None:
        """Hand the lock to the first in line."""
        assert self._held, "released a lock that is not held"
        if self._queue:
            self._queue.unpark(count=1)
        else:
            self._held = False

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_error: object) -> None:
        self.release()

    def statistics(self) -> FairLockStatistics:
        """Tell how the lock is used."""
        return FairLockStatistics(len(self._queue), self._taken, self._waited)
