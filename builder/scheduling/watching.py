# SPDX-License-Identifier: GPL-3.0-or-later
"""Those who watch all that the daemon builds, rather than wait for some of it.

A watcher has a bounded queue. Whoever reads slowly holds up nobody: it loses events,
and is told how many. Entry points: `Watchers`, `Subscription`.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import trio

from builder.events import BuildEvent
from builder.options import Client

CAPACITY = 1024
"""Events that wait for one watcher before it loses some."""


@dataclass(frozen=True, slots=True)
class GoalBegun:
    """Somebody wants something that nobody wanted yet; `kind` is its mode, or ``substitute``."""

    drv: str
    kind: str


@dataclass(frozen=True, slots=True)
class GoalEnded:
    """The goal is over; `outcome` is ``done``, or the kind of the failure."""

    drv: str
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Missed:
    """So many events were not told, since they came faster than they were read."""

    count: int


CourseEvent = BuildEvent | GoalBegun | GoalEnded


@dataclass(frozen=True, slots=True)
class Sight:
    """Something that happened, when (seconds since 1970), and to whom it matters."""

    event: CourseEvent
    time: float
    clients: tuple[Client, ...]


class Subscription:
    """What one watcher has not read yet: iterate over it.

    Args:
        uid: Whose goals are of interest; None for everybody's.
    """

    def __init__(self, uid: int | None) -> None:
        self._uid = uid
        self._sights: deque[Sight] = deque()
        self._missed = 0
        self._filled = trio.lowlevel.ParkingLot()

    def offer(self, sight: Sight) -> None:
        """Take a sight if it matters and there is room."""
        if self._uid is not None and all(each.uid != self._uid for each in sight.clients):
            return
        if self._missed or len(self._sights) >= CAPACITY:
            self._missed += 1
        else:
            self._sights.append(sight)
        self._filled.unpark_all()

    def clear(self) -> None:
        """Forget what was not read; for who looks at things, and waits only for a change."""
        self._sights.clear()
        self._missed = 0

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Sight | Missed:
        while not self._sights and not self._missed:
            await self._filled.park()
        if self._sights:
            return self._sights.popleft()
        missed, self._missed = self._missed, 0
        return Missed(missed)


class Watchers:
    """All who watch.

    Attributes:
        count: How many they are.
    """

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self.count = 0

    def subscribe(self, uid: int | None) -> Subscription:
        """Let somebody watch; to be ended with `unsubscribe`."""
        subscription = Subscription(uid)
        self._subscriptions.add(subscription)
        self.count = len(self._subscriptions)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Let somebody watch no longer."""
        self._subscriptions.discard(subscription)
        self.count = len(self._subscriptions)

    def tell(self, event: CourseEvent, time: float, clients: Iterable[Client]) -> None:
        """Tell all whom it concerns."""
        sight = Sight(event, time, tuple(clients))
        for subscription in self._subscriptions:
            subscription.offer(sight)
