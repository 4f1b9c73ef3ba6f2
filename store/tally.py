# SPDX-License-Identifier: GPL-3.0-or-later
"""How caches do, told of all of them alike.

Whatever the daemon remembers for as long as it lives is bounded, and says so here.
Entry points: `Tally`, which a cache has, and `CacheStatistics`.
"""

from dataclasses import dataclass


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
    """

    name: str
    entries: int
    used: int
    limit: int
    unit: str
    hits: int
    misses: int
    evictions: int


@dataclass(slots=True)
class Tally:
    """Counts what a cache does; to be changed by it alone."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0

    def looked_up(self, *, found: bool) -> None:
        """Count a look-up."""
        if found:
            self.hits += 1
        else:
            self.misses += 1

    def of_entries(self, name: str, entries: int, limit: int) -> CacheStatistics:
        """Tell of a cache that is limited by its entries."""
        return CacheStatistics(
            name, entries, entries, limit, "entries", self.hits, self.misses, self.evictions
        )

    def of_bytes(self, name: str, entries: int, used: int, limit: int) -> CacheStatistics:
        """Tell of a cache that is limited by the bytes that it takes, or stands for."""
        return CacheStatistics(
            name, entries, used, limit, "bytes", self.hits, self.misses, self.evictions
        )
