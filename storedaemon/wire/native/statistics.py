# SPDX-License-Identifier: GPL-3.0-or-later
"""How the daemon does, as the map of a result, and back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from store.tally import CacheStatistics

_TEXTS = ("name", "unit", "rule")


@dataclass(frozen=True, slots=True)
class Statistics:
    """How the daemon does.

    Attributes:
        groups: Numbers by name, by the part that they are about.
        caches: What it remembers.
    """

    groups: Mapping[str, Mapping[str, int | float]]
    caches: tuple[CacheStatistics, ...]


def statistics_map(statistics: Statistics) -> dict[str, Any]:
    """Give statistics as `stats` does."""
    groups = {
        group: {name.replace("_", "-"): value for name, value in values.items()}
        for group, values in statistics.groups.items()
    }
    return {**groups, "caches": [asdict(each) for each in statistics.caches]}


def parse_statistics(values: Mapping[str, Any]) -> Statistics:
    """Read what `statistics_map` made; raises KeyError or TypeError where it is something else."""
    groups = {
        str(group): {str(name): _number(value) for name, value in numbers.items()}
        for group, numbers in values.items()
        if isinstance(numbers, Mapping)
    }
    return Statistics(groups, tuple(map(_cache, values["caches"])))


def _cache(values: Mapping[str, Any]) -> CacheStatistics:
    known = {
        each.name: str(values[each.name]) if each.name in _TEXTS else _number(values[each.name])
        for each in fields(CacheStatistics)
    }
    return CacheStatistics(**known)  # type: ignore[arg-type]  # checked by name


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no number")
    return value
