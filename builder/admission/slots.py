# SPDX-License-Identifier: GPL-3.0-or-later
"""Build slots, shared out fairly among the users who ask.

The next free slot is for the user who has the fewest for its weight, and among those for
whoever had no turn for longest (`shares`); then for one of that user's sessions in turn.
So a user with ten thousand derivations, or a hundred sessions, does not delay another's
single one. Priorities say which of one user's goals comes first, and nothing about others'. No
task polls; a waiter is woken exactly when a slot is its own.

A build may want company no larger than some number. While it waits for that, the
others go on; once its patience is over, none is started before it.

Entry points: `Claim`, `Slots`.
"""

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import trio

from builder.admission.shares import Standing, Turns, in_turn


class Asker(NamedTuple):
    """Who asks for a slot: a user, in one of its sessions; and what the user counts."""

    user: Hashable
    session: Hashable = 0
    weight: int = 1


@dataclass(slots=True, eq=False)
class Claim:
    """What is wanted a slot for, and by whom; whoever's turn comes first brings it one.

    Askers and priority may change while it waits.

    Attributes:
        goal: What it is for, for those who ask who has the slots.
        askers: Those who want it; the first is charged where nobody had to wait.
        user: The name of the first of them, for people.
    """

    goal: str = ""
    askers: list[Asker] = field(default_factory=list)
    user: str = ""
    _priority: int = 0
    _waiter: "_Waiter | None" = None

    @property
    def priority(self) -> int:
        """Which comes first of one user's claims: those with more."""
        return self._priority

    def set_priority(self, priority: int) -> None:
        """Change the priority, in the queue too."""
        waiter = self._waiter
        if waiter is not None:
            waiter.slots.dequeue(waiter)
        self._priority = priority
        if waiter is not None:
            waiter.slots.enqueue(waiter)

    def add(self, asker: Asker) -> None:
        """Let one more want it."""
        self.askers.append(asker)
        if self._waiter is not None:
            self._waiter.slots.enqueue(self._waiter)

    def remove(self, asker: Asker) -> None:
        """Let somebody want it no longer."""
        waiter = self._waiter
        if waiter is not None:
            waiter.slots.dequeue(waiter)
        self.askers.remove(asker)
        if waiter is not None:
            waiter.slots.enqueue(waiter)

    def wait_with(self, waiter: "_Waiter | None") -> None:
        """Note what stands in the queues for it; for `Slots`."""
        self._waiter = waiter


@dataclass(slots=True, eq=False)
class Slot:
    """A slot that is taken; give it back with `Slots.release`.

    Attributes:
        claim: What has it.
        user: Whose share it is of.
        weight: What that user counts.
        limit: How many slots may be taken while this one is, itself included; None for any.
        beside: The most others that were taken at the same time, so far.
        since: When it was taken, in seconds since 1970.
    """

    claim: Claim
    user: Hashable = None
    weight: int = 1
    limit: int | None = None
    beside: int = 0
    since: float = field(default_factory=time.time)


@dataclass(slots=True, eq=False)
class _Waiter:
    slots: "Slots"
    claim: Claim
    limit: int | None
    granted: trio.Event = field(default_factory=trio.Event)
    slot: Slot | None = None


def _first_asker(claim: Claim) -> Asker:
    return claim.askers[0] if claim.askers else Asker(None)


_Line = OrderedDict[_Waiter, None]


class _Share:
    """What one user waits for: by priority, by session, in the order in which it came."""

    def __init__(self, weight: int, turn: float) -> None:
        self.weight = weight
        self.turn = turn
        self.levels: dict[int, OrderedDict[Hashable, _Line]] = {}

    def add(self, session: Hashable, waiter: _Waiter) -> None:
        level = self.levels.setdefault(waiter.claim.priority, OrderedDict())
        level.setdefault(session, OrderedDict())[waiter] = None

    def remove(self, session: Hashable, waiter: _Waiter) -> None:
        priority = waiter.claim.priority
        level = self.levels.get(priority, OrderedDict())
        line = level.get(session, OrderedDict())
        line.pop(waiter, None)
        if not line:
            level.pop(session, None)
        if not level:
            self.levels.pop(priority, None)

    def in_order(self) -> Iterator[tuple[Hashable, _Waiter]]:
        for priority in sorted(self.levels, reverse=True):
            for session, line in self.levels[priority].items():
                for waiter in line:
                    yield session, waiter

    def had_turn(self, session: Hashable) -> None:
        for level in self.levels.values():
            if session in level:
                level.move_to_end(session)


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """A look at the slots: how many there are, are taken, and are waited for."""

    capacity: int
    taken: int
    waiting: int


class Slots:
    """A number of slots, and a queue for each user."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken: OrderedDict[Slot, None] = OrderedDict()
        self._held: dict[Hashable, int] = {}
        self._shares: OrderedDict[Hashable, _Share] = OrderedDict()
        self._waiters: set[_Waiter] = set()
        self._urgent: list[_Waiter] = []
        self._turns = Turns()

    @property
    def capacity(self) -> int:
        """How many slots there are now."""
        return self._capacity

    @property
    def holders(self) -> list[Slot]:
        """The slots that are taken, the longest taken first."""
        return list(self._taken)

    def resize(self, capacity: int) -> None:
        """Change the number of slots; those taken beyond it are not taken back."""
        self._capacity = capacity
        self._grant()

    def acquire_nowait(self, claim: Claim, limit: int | None = None) -> Slot | None:
        """Take a slot if one is free and nobody waits; return it, or None."""
        if self._waiters or not self._has_room(limit):
            return None
        return self._take(claim, _first_asker(claim), limit)

    async def acquire(self, claim: Claim, limit: int | None = None, patience: float = inf) -> Slot:
        """Wait for a slot in the queues of all who want it.

        Always a checkpoint; a cancelled wait takes no slot.

        Args:
            claim: What it is for; it waits for no other slot meanwhile.
            limit: How many slots may be taken at the same time, itself included.
            patience: Seconds after which no other slot is given out before this one.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        slot = self.acquire_nowait(claim, limit)
        if slot is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return slot
        waiter = _Waiter(self, claim, limit)
        self._waiters.add(waiter)
        claim.wait_with(waiter)
        self.enqueue(waiter)
        # A resize may have left slots free that only a waiter makes visible.
        self._grant()
        try:
            if patience < inf:
                with trio.move_on_after(patience):
                    await waiter.granted.wait()
                if waiter.slot is None:
                    self._urgent.append(waiter)
            if waiter.slot is None:
                await waiter.granted.wait()
        except trio.Cancelled:
            self._withdraw(waiter)
            raise
        assert waiter.slot is not None
        return waiter.slot

    def release(self, slot: Slot) -> None:
        """Give a slot back; the next in turn has it at once."""
        del self._taken[slot]
        held = self._held.pop(slot.user) - 1
        if held:
            self._held[slot.user] = held
        self._grant()

    def statistics(self) -> SlotStatistics:
        """Return how the slots stand."""
        return SlotStatistics(self._capacity, len(self._taken), len(self._waiters))

    def enqueue(self, waiter: _Waiter) -> None:
        """Have a waiter stand in the queues of all its askers; for `Claim`."""
        for user, session, weight in waiter.claim.askers:
            if user not in self._shares:
                self._shares[user] = _Share(weight, self._turns.first(weight))
            self._shares[user].add(session, waiter)

    def dequeue(self, waiter: _Waiter) -> None:
        """Take a waiter out of all queues; for `Claim`."""
        for user, session, _ in waiter.claim.askers:
            share = self._shares.get(user)
            if share is None:
                continue
            share.remove(session, waiter)
            if not share.levels:
                del self._shares[user]

    def _has_room(self, limit: int | None) -> bool:
        taken = len(self._taken)
        if taken >= self._capacity or (limit is not None and taken >= limit):
            return False
        return all(slot.limit is None or taken < slot.limit for slot in self._taken)

    def _take(self, claim: Claim, asker: Asker, limit: int | None) -> Slot:
        slot = Slot(claim, asker.user, asker.weight, limit)
        self._taken[slot] = None
        self._held[asker.user] = self._held.get(asker.user, 0) + 1
        beside = len(self._taken) - 1
        for each in self._taken:
            each.beside = max(each.beside, beside)
        return slot

    def _grant(self) -> None:
        while (found := self._next()) is not None:
            asker, waiter = found
            self._count_turn(asker)
            self._forget(waiter)
            waiter.slot = self._take(waiter.claim, asker, waiter.limit)
            waiter.granted.set()

    def _next(self) -> tuple[Asker, _Waiter] | None:
        """Return whose turn it is: the first that has room, of the user who has the fewest."""
        if not self._waiters or not self._has_room(None):
            return None
        if self._urgent:
            first = self._urgent[0]
            return (_first_asker(first.claim), first) if self._has_room(first.limit) else None
        for user in self._users_in_turn():
            share = self._shares[user]
            for session, waiter in share.in_order():
                if waiter.limit is None or self._has_room(waiter.limit):
                    return Asker(user, session, share.weight), waiter
        return None

    def _users_in_turn(self) -> Iterable[Hashable]:
        if len(self._shares) == 1:
            return self._shares
        return in_turn(self._capacity, self._standings())

    def _standings(self) -> dict[Hashable, Standing]:
        held = self._held
        waiting = {
            user: Standing(held.get(user, 0), share.weight, share.turn)
            for user, share in self._shares.items()
        }
        return waiting | {
            slot.user: Standing(held[slot.user], slot.weight)
            for slot in self._taken
            if slot.user not in waiting
        }

    def _count_turn(self, asker: Asker) -> None:
        share = self._shares.get(asker.user)
        if share is not None:
            self._shares.move_to_end(asker.user)
            share.had_turn(asker.session)
            share.turn = self._turns.after(share.turn, share.weight)

    def _forget(self, waiter: _Waiter) -> None:
        self.dequeue(waiter)
        waiter.claim.wait_with(None)
        self._waiters.discard(waiter)
        if waiter in self._urgent:
            self._urgent.remove(waiter)

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter.slot is not None:
            self.release(waiter.slot)
            return
        self._forget(waiter)
        # It may have been the one before which no other was to start.
        self._grant()
