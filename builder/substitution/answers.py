# SPDX-License-Identifier: GPL-3.0-or-later
"""What substituters said lately, for a short while and in a bounded number of entries."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from builder.substitution.offers import Offer, Sources
from store.paths import StorePath
from store.tally import CacheStatistics, Tally

OFFER_SECONDS = 60.0
"""How long an offer counts; ``guix substitute`` itself remembers for hours."""
NO_OFFER_SECONDS = 5.0
"""How long it counts that there is none: a client's queries, then its build."""
MAX_ANSWERS = 50_000

_Key = tuple[Sources, StorePath]


class Answers:
    """Remembers offers, and that there is none, by where was looked for them.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float], limit: int = MAX_ANSWERS) -> None:
        self._clock = clock
        self._limit = limit
        self._tally = Tally()
        self._entries: OrderedDict[_Key, tuple[float, Offer | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def statistics(self) -> CacheStatistics:
        """Return how this does as a cache."""
        return self._tally.of_entries("substitutes", len(self._entries), self._limit)

    def known(self, sources: Sources, paths: Iterable[StorePath]) -> dict[StorePath, Offer | None]:
        """Return what still counts of some items."""
        now = self._clock()
        found: dict[StorePath, Offer | None] = {}
        for path in paths:
            entry = self._entries.get((sources, path))
            counts = entry is not None and now < entry[0]
            self._tally.looked_up(found=counts)
            if entry is not None and counts:
                found[path] = entry[1]
        return found

    def add(
        self, sources: Sources, asked: Iterable[StorePath], found: Mapping[StorePath, Offer]
    ) -> None:
        """Remember an answer; the oldest are forgotten beyond the limit."""
        now = self._clock()
        for path in asked:
            offer = found.get(path)
            expiry = now + (NO_OFFER_SECONDS if offer is None else OFFER_SECONDS)
            self._entries[sources, path] = expiry, offer
            self._entries.move_to_end((sources, path))
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)
            self._tally.evictions += 1

    def forget(self, path: StorePath) -> None:
        """Forget an item that turned out not to be had, wherever it was looked for."""
        for key in [key for key in self._entries if key[1] == path]:
            del self._entries[key]
