# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order garbage goes, and what goes with what; pure, for threads.

What refers to an item goes before it, so an item can count as used no earlier
than whatever refers to it. Then the order of last uses is one in which
referrers come first, and what was not used for longest goes first. Entry
points: `deletion_order`, `with_referrers`, `unused_since`.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from store.database.garbage import Garbage


@dataclass(frozen=True, slots=True)
class Order:
    """An order of deletion.

    Attributes:
        numbers: The items, the first to go first.
        used: When each item, by its number, or something that refers to it, was used last.
    """

    numbers: Sequence[int]
    used: "array[int]"


def deletion_order(garbage: Garbage) -> Order:
    """Sort garbage by last use, referrers first.

    Items that refer to each other in a circle, which no sound database holds,
    are left out, and so is what they refer to.
    """
    used = array("q", garbage.times)
    topological = array("q", _referrers_first(garbage, used))
    # Sorting is stable: those used at one time stay as they are, referrers first.
    return Order(sorted(topological, key=used.__getitem__), used)


def _referrers_first(garbage: Garbage, used: "array[int]") -> Iterable[int]:
    referrers = array("q", bytes(8 * len(used)))
    for target in garbage.references.targets:
        referrers[target] += 1
    ready = deque(number for number, count in enumerate(referrers) if not count)
    while ready:
        number = ready.popleft()
        yield number
        time = used[number]
        for target in garbage.references.of(number):
            used[target] = max(used[target], time)
            referrers[target] -= 1
            if not referrers[target]:
                ready.append(target)


def unused_since(order: Order, time: int) -> list[int]:
    """Return, in order, what nothing used at or after a time."""
    return [number for number in order.numbers if order.used[number] < time]


def with_referrers(garbage: Garbage, order: Order, wanted: Iterable[int]) -> list[int]:
    """Return, in order, some items and whatever refers to them, however remotely."""
    chosen = bytearray(len(garbage.ids))
    for number in wanted:
        chosen[number] = 1
    # What is referred to comes last in the order, so it is known before its referrers.
    for number in reversed(order.numbers):
        if not chosen[number]:
            chosen[number] = any(chosen[each] for each in garbage.references.of(number))
    return [number for number in order.numbers if chosen[number]]
