# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations of the store, read and parsed once.

A valid item never changes, so neither does what was parsed from it. The cache
is bounded by the size of the texts it stands for; what was not used for longest
goes first.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from store.derivations import Derivation
from store.paths import StorePath

CACHED_BYTES = 8 * 1024 * 1024
"""The texts behind the cached derivations add up to no more than this."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """How a cache does: entries, the bytes they stand for, and look-ups by outcome."""

    entries: int
    size: int
    limit: int
    hits: int
    misses: int


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
        self._hits = 0
        self._misses = 0

    def get(self, path: StorePath) -> Derivation:
        """Return a derivation whose item is valid."""
        entry = self._entries.get(path)
        if entry is not None:
            self._hits += 1
            self._entries.move_to_end(path)
            return entry[0]
        self._misses += 1
        return self._add(path)

    def statistics(self) -> CacheStatistics:
        """Return how the cache does."""
        return CacheStatistics(
            len(self._entries), self._size, self._limit, self._hits, self._misses
        )

    def _add(self, path: StorePath) -> Derivation:
        text = self._read(path)
        derivation = self._parse(text, path)
        self._entries[path] = derivation, len(text)
        self._size += len(text)
        while self._size > self._limit:
            _, (_, size) = self._entries.popitem(last=False)
            self._size -= size
        return derivation
