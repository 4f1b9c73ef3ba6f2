# SPDX-License-Identifier: GPL-3.0-or-later
"""Build slots, shared out fairly among those who ask.

Askers are served in turn, however many goals each of them has: one client with
ten thousand derivations does not delay another's single one. No task polls; a
waiter is woken exactly when a slot is its own.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

import trio


@dataclass(slots=True)
class _Waiter:
    granted: trio.Event
    has_slot: bool = False


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """A look at the slots: how many there are, are taken, and are waited for."""

    capacity: int
    taken: int
    waiting: int


class Slots:
    """A number of slots, and a queue an asker."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0
        self._queues: OrderedDict[Hashable, deque[_Waiter]] = OrderedDict()

    @property
    def capacity(self) -> int:
        """How many slots there are now."""
        return self._capacity

    def resize(self, capacity: int) -> None:
        """Change the number of slots; those taken beyond it are not taken back."""
        self._capacity = capacity
        self._grant()

    def acquire_nowait(self) -> bool:
        """Take a slot if one is free and nobody waits; tell whether it was taken."""
        if self._queues or self._taken >= self._capacity:
            return False
        self._taken += 1
        return True

    async def acquire(self, asker: Hashable) -> None:
        """Wait for a slot in the queue of `asker`.

        Always a checkpoint; a cancelled wait takes no slot.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.acquire_nowait():
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        waiter = _Waiter(trio.Event())
        self._queues.setdefault(asker, deque()).append(waiter)
        # A resize may have left slots free that only a waiter makes visible.
        self._grant()
        try:
            await waiter.granted.wait()
        except trio.Cancelled:
            self._withdraw(asker, waiter)
            raise

    def release(self) -> None:
        """Give a slot back; the next asker in turn has it at once."""
        self._taken -= 1
        self._grant()

    def statistics(self) -> SlotStatistics:
        """Return how the slots stand."""
        waiting = sum(len(queue) for queue in self._queues.values())
        return SlotStatistics(self._capacity, self._taken, waiting)

    def _grant(self) -> None:
        while self._queues and self._taken < self._capacity:
            asker, queue = self._queues.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                self._queues[asker] = queue
            self._taken += 1
            waiter.has_slot = True
            waiter.granted.set()

    def _withdraw(self, asker: Hashable, waiter: _Waiter) -> None:
        if waiter.has_slot:
            self.release()
            return
        queue = self._queues[asker]
        queue.remove(waiter)
        if not queue:
            del self._queues[asker]
