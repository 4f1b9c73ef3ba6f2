# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations of the store, read and parsed once.

A valid item never changes, so neither does what was parsed from it. The cache
is bounded by the size of the texts it stands for; what was not used for longest
goes first.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from store import turns
from store.derivations import Derivation
from store.paths import StorePath
from store.tally import CacheStatistics, Rule, Tally

LONG = 128 * 1024
"""Bytes of a text from which it is parsed in a thread: it takes some 10 µs a KiB."""

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
        self._tally = Tally(rule=Rule.UNUSED)

    def get(self, path: StorePath) -> Derivation:
        """Return a derivation whose item is valid."""
        known = self._find(path)
        if known is not None:
            return known
        text = self._read(path)
        return self._add(path, len(text), self._parse(text, path))

    async def load(self, path: StorePath) -> Derivation:
        """Return a derivation whose item is valid; a long one without holding up other tasks."""
        known = self._find(path)
        if known is not None:
            return known
        text = self._read(path)
        parse = partial(self._parse, text, path)
        return self._add(path, len(text), await turns.run(parse, much=len(text) > LONG))

    def learn(self, path: StorePath, size: int, derivation: Derivation) -> None:
        """Take a derivation that somebody else has parsed: what is added is built next, often."""
        self._add(path, size, derivation)

    def statistics(self) -> CacheStatistics:
        """Return how the cache does."""
        return self._tally.of_bytes("derivations", len(self._entries), self._size, self._limit)

    def _find(self, path: StorePath) -> Derivation | None:
        entry = self._entries.get(path)
        self._tally.looked_up(found=entry is not None)
        if entry is None:
            return None
        self._entries.move_to_end(path)
        return entry[0]

    def _add(self, path: StorePath, size: int, derivation: Derivation) -> Derivation:
        if path in self._entries:
            return derivation  # another task was faster
        self._entries[path] = derivation, size
        self._size += size
        while self._size > self._limit:
            _, (_, size) = self._entries.popitem(last=False)
            self._size -= size
            self._tally.evictions += 1
        return derivation
