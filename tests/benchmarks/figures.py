# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark finds out, as plain data.

Absolute figures move from machine to machine, and from minute to minute. So a
`Figure` holds, beside ours, what the bare system and a peer took in the same
rounds, and most goals are multiples of the bare system's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median


class Unit(Enum):
    """What a figure counts, and how it is shown: steps from large to small."""

    SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
    COUNT = ((1.0, ""),)

    def show(self, value: float) -> str:
        """Show a value with three digits, in the largest step that it reaches."""
        reached = [each for each in self.value if abs(value) >= each[0]]
        step, name = reached[0] if reached else self.value[-1]
        number = value / step
        digits = 0 if abs(number) >= 100 or self is Unit.COUNT else 1 if abs(number) >= 10 else 2
        return f"{number:.{digits}f} {name}".rstrip()


class Against(Enum):
    """What a goal is a multiple of."""

    FLOOR = "floor"
    PEER = "peer"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure may be at most: a multiple of `against`, or a value by itself."""

    limit: float
    against: Against = Against.FLOOR

    def show(self, unit: Unit) -> str:
        """Show it in a word or two."""
        if self.against is Against.NOTHING:
            return f"≤ {unit.show(self.limit)}"
        return f"≤ {self.limit:g} x {self.against.value}"


@dataclass(frozen=True, slots=True)
class Series:
    """What each contestant took, a value a round; all took turns within a round.

    Attributes:
        ours: The daemon's.
        floor: The bare system's, empty where nothing bare compares.
        peer: The other daemon's, empty where there is none or it cannot do this.
    """

    ours: Sequence[float]
    floor: Sequence[float] = ()
    peer: Sequence[float] = ()

    @property
    def ratio(self) -> float | None:
        """How many times the floor ours is: the median over the rounds."""
        return _ratio(self.ours, self.floor)

    @property
    def peer_ratio(self) -> float | None:
        """How many times the floor the peer's is."""
        return _ratio(self.peer, self.floor)

    def compare(self, goal: Goal) -> bool | None:
        """Say whether a goal is met; None where what it is against was not measured."""
        if goal.against is Against.NOTHING:
            return median(self.ours) <= goal.limit
        ratio = self.ratio if goal.against is Against.FLOOR else _ratio(self.ours, self.peer)
        return None if ratio is None else ratio <= goal.limit


def _ratio(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Compare within each round, so that a slow minute slows both sides of a ratio."""
    if not values or not others:
        return None
    return median(value / other for value, other in zip(values, others, strict=True))


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What was measured.
        floor_name: What the floor is.
        unit: Of all values.
        series: The values.
        goals: Each of them is to be met.
        notes: Facts that belong to it, each a short phrase.
    """

    name: str
    floor_name: str
    unit: Unit
    series: Series
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def met(self) -> bool | None:
        """Whether all goals are met; None where there is none, or one cannot be judged."""
        verdicts = [self.series.compare(goal) for goal in self.goals]
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True
