# SPDX-License-Identifier: GPL-3.0-or-later
"""Which items can be substituted, together with all that they refer to. Pure.

An item can be had if there is an offer of it, and everything it refers to is
valid or can be had likewise. Offers that refer to each other in a circle can
not: neither could come first. Entry point: `OfferBook`.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from builder.substitution.offers import Offer
from store.paths import StorePath


@dataclass(slots=True)
class OfferBook:
    """What a request has learned about substitutes.

    Attributes:
        offers: Those there are; None where there is none.
        unknown: Items that are not valid, and have to be asked for.
        unchecked: Items of which it has to be found out whether they are valid.
        failed: Those whose download failed; they count as not offered.
    """

    offers: dict[StorePath, Offer | None] = field(default_factory=dict)
    unknown: set[StorePath] = field(default_factory=set)
    unchecked: set[StorePath] = field(default_factory=set)
    failed: set[StorePath] = field(default_factory=set)
    _valid: set[StorePath] = field(default_factory=set)
    _needs: dict[StorePath, frozenset[StorePath]] = field(default_factory=dict)

    def want(self, paths: Iterable[StorePath]) -> None:
        """Note items that are not valid, and may be substituted."""
        self.unknown.update(path for path in paths if path not in self.offers)

    def learn(self, asked: Iterable[StorePath], found: Mapping[StorePath, Offer]) -> None:
        """Take the answer to a question; what is found refers to has to be checked."""
        for path in asked:
            offer = self.offers[path] = found.get(path)
            self.unknown.discard(path)
            if offer is not None:
                self.unchecked |= offer.references - self._valid - {path}

    def note_valid(self, valid: Iterable[StorePath]) -> None:
        """Take those that were found valid of what was to be checked; the others are wanted."""
        self._valid.update(valid)
        self.want(self.unchecked - self._valid)
        self.unchecked.clear()

    def forget(self) -> None:
        """Have everything checked again: what was missing may have been built."""
        self._valid.clear()
        self._needs.clear()
        for path, offer in self.offers.items():
            if offer is not None:
                self.unchecked |= offer.references - {path}

    def needs(self, path: StorePath) -> frozenset[StorePath]:
        """Return what has to be had before an item that is offered, all of it checked."""
        known = self._needs.get(path)
        if known is None:
            offer = self.offers[path]
            assert offer is not None, "only what is offered needs anything"
            known = self._needs[path] = offer.references - self._valid - {path}
        return known

    def lacks(self, paths: Iterable[StorePath]) -> bool:
        """Tell whether one of some items is known not to be offered."""
        return any(path in self.failed or self.offers.get(path, ...) is None for path in paths)

    def obtainable(self) -> frozenset[StorePath]:
        """Return the offered items of which the whole closure can be had."""
        left: dict[StorePath, int] = {}
        needed_by: dict[StorePath, list[StorePath]] = {}
        for path, offer in self.offers.items():
            if offer is None:
                continue
            needs = self.needs(path)
            left[path] = len(needs)
            for needed in needs:
                needed_by.setdefault(needed, []).append(path)
        free = deque(path for path, count in left.items() if not count and path not in self.failed)
        found: set[StorePath] = set()
        while free:
            path = free.popleft()
            found.add(path)
            for dependent in needed_by.get(path, ()):
                left[dependent] -= 1
                if not left[dependent] and dependent not in self.failed:
                    free.append(dependent)
        return frozenset(found)
