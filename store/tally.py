# SPDX-License-Identifier: GPL-3.0-or-later
"""How caches do, told of all of them alike.

Whatever the daemon remembers for as long as it lives is bounded, and says so here.
Entry points: `Tally`, which a cache has, `of_function`, and `CacheStatistics`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class Rule(StrEnum):
    """What goes when there is too much; the words are stable."""

    UNUSED = "least-recently-used"
    OLDEST = "oldest"


class CachedFunction(Protocol):
    """What `functools.lru_cache` makes."""

    def cache_info(self) -> Any:
        """Return how it does."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """How one cache does.

    Attributes:
        name: Stable, for programs.
        entries: What it holds.
        used: What counts against the limit.
        limit: Beyond it, something is forgotten.
        unit: Of both: ``entries`` or ``bytes``.
        hits: Look-ups that found something.
        misses: Those that did not.
        evictions: Entries forgotten because of the limit.
        rule: Which those are.
    """

    name: str
    entries: int
    used: int
    limit: int
    unit: str
    hits: int
    misses: int
    evictions: int
    rule: str = Rule.OLDEST


@dataclass(slots=True)
class Tally:
    """Counts what a cache does; to be changed by it alone."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    rule: Rule = Rule.OLDEST

    def looked_up(self, *, found: bool) -> None:
        """Count a look-up."""
        if found:
            self.hits += 1
        else:
            self.misses += 1

    def of_entries(self, name: str, entries: int, limit: int) -> CacheStatistics:
        """Tell of a cache that is limited by its entries."""
        return self._of(name, entries, entries, limit, "entries")

    def of_bytes(self, name: str, entries: int, used: int, limit: int) -> CacheStatistics:
        """Tell of a cache that is limited by the bytes that it takes, or stands for."""
        return self._of(name, entries, used, limit, "bytes")

    def _of(self, name: str, entries: int, used: int, limit: int, unit: str) -> CacheStatistics:
        counts = self.hits, self.misses, self.evictions
        return CacheStatistics(name, entries, used, limit, unit, *counts, self.rule)


def of_function(name: str, function: CachedFunction) -> CacheStatistics:
    """Tell of the results that `functools.lru_cache` keeps of a function."""
    info = function.cache_info()
    tally = Tally(info.hits, info.misses, info.misses - info.currsize, Rule.UNUSED)
    return tally.of_entries(name, info.currsize, info.maxsize)
