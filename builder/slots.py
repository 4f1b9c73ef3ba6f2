# SPDX-License-Identifier: GPL-3.0-or-later
"""Build slots, shared out fairly among those who ask.

Askers are served in turn, however many goals each of them has: one client with
ten thousand derivations does not delay another's single one. No task polls; a
waiter is woken exactly when a slot is its own.

A build may want company no larger than some number. While it waits for that, the
others go on; once its patience is over, none is started before it.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

import trio


@dataclass(slots=True, eq=False)
class Slot:
    """A slot that is taken; give it back with `Slots.release`.

    Attributes:
        limit: How many slots may be taken while this one is, itself included; None for any.
        beside: The most others that were taken at the same time, so far.
    """

    limit: int | None = None
    beside: int = 0


@dataclass(slots=True, eq=False)
class _Waiter:
    limit: int | None
    granted: trio.Event = field(default_factory=trio.Event)
    slot: Slot | None = None


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
        self._taken: set[Slot] = set()
        self._queues: OrderedDict[Hashable, deque[_Waiter]] = OrderedDict()
        self._urgent: list[tuple[Hashable, _Waiter]] = []

    @property
    def capacity(self) -> int:
        """How many slots there are now."""
        return self._capacity

    def resize(self, capacity: int) -> None:
        """Change the number of slots; those taken beyond it are not taken back."""
        self._capacity = capacity
        self._grant()

    def acquire_nowait(self, limit: int | None = None) -> Slot | None:
        """Take a slot if one is free and nobody waits; return it, or None."""
        if self._queues or not self._has_room(limit):
            return None
        return self._take(limit)

    async def acquire(
        self, asker: Hashable, limit: int | None = None, patience: float = float("inf")
    ) -> Slot:
        """Wait for a slot in the queue of `asker`.

        Always a checkpoint; a cancelled wait takes no slot.

        Args:
            asker: Whose turn it takes.
            limit: How many slots may be taken at the same time, itself included.
            patience: Seconds after which no other slot is given out before this one.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        slot = self.acquire_nowait(limit)
        if slot is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return slot
        waiter = _Waiter(limit)
        self._queues.setdefault(asker, deque()).append(waiter)
        # A resize may have left slots free that only a waiter makes visible.
        self._grant()
        try:
            with trio.move_on_after(patience):
                await waiter.granted.wait()
            if waiter.slot is None:
                self._urgent.append((asker, waiter))
                await waiter.granted.wait()
        except trio.Cancelled:
            self._withdraw(asker, waiter)
            raise
        assert waiter.slot is not None
        return waiter.slot

    def release(self, slot: Slot) -> None:
        """Give a slot back; the next asker in turn has it at once."""
        self._taken.remove(slot)
        self._grant()

    def statistics(self) -> SlotStatistics:
        """Return how the slots stand."""
        waiting = sum(len(queue) for queue in self._queues.values())
        return SlotStatistics(self._capacity, len(self._taken), waiting)

    def _has_room(self, limit: int | None) -> bool:
        limits = [slot.limit for slot in self._taken if slot.limit is not None]
        if limit is not None:
            limits.append(limit)
        return len(self._taken) < min([self._capacity, *limits])

    def _take(self, limit: int | None) -> Slot:
        slot = Slot(limit)
        self._taken.add(slot)
        beside = len(self._taken) - 1
        for each in self._taken:
            each.beside = max(each.beside, beside)
        return slot

    def _grant(self) -> None:
        while (found := self._next()) is not None:
            asker, waiter = found
            self._dequeue(asker, waiter)
            if asker in self._queues:
                self._queues.move_to_end(asker)
            waiter.slot = self._take(waiter.limit)
            waiter.granted.set()

    def _dequeue(self, asker: Hashable, waiter: _Waiter) -> None:
        queue = self._queues[asker]
        queue.remove(waiter)
        if not queue:
            del self._queues[asker]
        if (asker, waiter) in self._urgent:
            self._urgent.remove((asker, waiter))

    def _next(self) -> tuple[Hashable, _Waiter] | None:
        """Return whose turn it is: of the first asker the first waiter that has room."""
        if not self._has_room(None):
            return None
        if self._urgent:
            return self._urgent[0] if self._has_room(self._urgent[0][1].limit) else None
        for asker, queue in self._queues.items():
            for waiter in queue:
                if waiter.limit is None or self._has_room(waiter.limit):
                    return asker, waiter
        return None

    def _withdraw(self, asker: Hashable, waiter: _Waiter) -> None:
        if waiter.slot is not None:
            self.release(waiter.slot)
            return
        self._dequeue(asker, waiter)
        # It may have been the one before which no other was to start.
        self._grant()
