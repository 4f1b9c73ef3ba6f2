# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations of the store, read and parsed once.

A valid item never changes, so neither does what was parsed from it. The cache
is bounded by the size of the texts it stands for; what was not used for longest
goes first.
"""

from collections import OrderedDict
from collections.abc import Callable

from store.derivations import Derivation
from store.paths import StorePath
from store.tally import CacheStatistics, Tally

CACHED_BYTES = 8 * 1024 * 1024
"""The texts behind the cached derivations add up to no more than this."""


class DerivationCache:
    """Parsed derivations by path.

    Args:
        read: Returns the text of a derivation; raises OSError or StoreError.
        parse: Turns the text into a derivation; raises DerivationError.
        limit: The bound on the texts' size, in bytes.
    """

    def __init__(
        self,
        read: Callable[[StorePath], bytes],
        parse: Callable[[bytes, StorePath], Derivation],
        limit: int = CACHED_BYTES,
    ) -> None:
        self._read = read
        self._parse = parse
        self._limit = limit
        self._entries: OrderedDict[StorePath, tuple[Derivation, int]] = OrderedDict()
        self._size = 0
        self._tally = Tally()

    def get(self, path: StorePath) -> Derivation:
        """Return a derivation whose item is valid."""
        entry = self._entries.get(path)
        self._tally.looked_up(found=entry is not None)
        if entry is not None:
            self._entries.move_to_end(path)
            return entry[0]
        return self._add(path)

    def statistics(self) -> CacheStatistics:
        """Return how the cache does."""
        return self._tally.of_bytes("derivations", len(self._entries), self._size, self._limit)

    def _add(self, path: StorePath) -> Derivation:
        text = self._read(path)
        derivation = self._parse(text, path)
        self._entries[path] = derivation, len(text)
        self._size += len(text)
        while self._size > self._limit:
            _, (_, size) = self._entries.popitem(last=False)
            self._size -= size
            self._tally.evictions += 1
        return derivation
