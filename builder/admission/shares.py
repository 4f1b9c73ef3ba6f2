# SPDX-License-Identifier: GPL-3.0-or-later
"""Which user's turn it is, by weight; pure.

A user's part of the slots is its weight over the weights of all who have or want some.
Whoever has less than the whole number below it comes first; the slots that are left over
go round by turns, of which a user has as many more as its weight is greater. So with one
slot alone, weights of 3 and 1 mean three builds of the one for each of the other.

Entry points: `Standing`, `in_turn`, `Turns`.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """How one user stands.

    Attributes:
        held: How many slots it has.
        weight: What it counts.
        turn: When its turn is, see `Turns`; None where it waits for nothing.
    """

    held: int
    weight: int = 1
    turn: float | None = None


def in_turn(capacity: int, standings: Mapping[Hashable, Standing]) -> list[Hashable]:
    """Return those who wait, whose turn it is first.

    Args:
        capacity: How many slots there are.
        standings: All who have slots or wait for one, in the order of their last turns.
    """
    total = sum(each.weight for each in standings.values())

    def key(user: Hashable) -> tuple[int, float]:
        found = standings[user]
        part, rest = divmod(capacity * found.weight, total)
        if found.held < part:
            return 0, found.held / found.weight
        if found.held == part and rest:
            return 1, found.turn or 0.0
        return 2, found.held / found.weight

    return sorted((user for user, each in standings.items() if each.turn is not None), key=key)


@dataclass(slots=True)
class Turns:
    """A clock that goes on with turns; a user of weight N has N of them while it goes on by 1."""

    _now: float = 0.0

    def first(self, weight: int) -> float:
        """Tell when the first turn is of a user who has just come: what was before is over."""
        return self._now + 1 / weight

    def after(self, turn: float, weight: int) -> float:
        """Have a turn, and tell when the user's next one is: also if this one came late."""
        self._now = max(self._now, turn)
        return turn + 1 / weight
