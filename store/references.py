# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding references: the hash parts, among those that may occur, that do occur in some bytes.

A hash part is 32 characters of a 32-letter alphabet. So wherever one begins,
each of eight consecutive positions of every fourth byte holds such a letter,
which bytes of other kinds hardly ever do: most data is dismissed by looking at
a quarter of it with C's loops. Where letters are frequent, such as in a list
of store paths or in text that is base-32 itself, that would dismiss little;
there, each aligned word of eight bytes is looked up among the words that
candidates are made of.
"""

from collections.abc import Iterable

from store import base32
from store.paths import HASH_PART_LENGTH

_STRIDE = 4
_RUN = b"\1" * (HASH_PART_LENGTH // _STRIDE)
_LETTERS = bytes(1 if chr(byte) in base32.ALPHABET else 0 for byte in range(256))
_WORD = 8
# A run of so many bytes is cheaper to look up by words than at each offset.
_LONG_RUN = 256
# With more runs than one in so many bytes, looking at them one by one does not pay.
_DENSITY = 512


class ReferenceScanner:
    """Looks for hash parts in a stream of bytes.

    Args:
        candidates: The hash parts that may occur, 32 characters each.
    """

    def __init__(self, candidates: Iterable[str]) -> None:
        self._wanted = {candidate.encode("ascii") for candidate in candidates}
        self._found: set[str] = set()
        self._tail = b""
        self._words: dict[int, set[bytes]] | None = None

    @property
    def found(self) -> frozenset[str]:
        """The candidates that occurred so far."""
        return frozenset(self._found)

    def feed(self, data: bytes) -> None:
        """Look through the next bytes; what spans two calls is found as well."""
        if not self._wanted:
            return
        overlap = HASH_PART_LENGTH - 1
        self._look_at_each_offset(self._tail + data[:overlap])
        if len(data) > overlap:
            self._scan(data)
            self._tail = data[-overlap:]
        else:
            self._tail = (self._tail + data)[-overlap:]

    def _scan(self, data: bytes) -> None:
        letters = data[::_STRIDE].translate(_LETTERS)
        start = letters.find(_RUN)
        if start < 0:
            return
        if letters.count(_RUN, start) * _DENSITY > len(data):
            self._look_at_words(data)
            return
        while start >= 0:
            end = letters.find(0, start)
            end = end if end >= 0 else len(letters)
            run = data[max(0, start * _STRIDE - _STRIDE + 1) : end * _STRIDE]
            if len(run) > _LONG_RUN:
                self._look_at_words(run)
            else:
                self._look_at_each_offset(run)
            start = letters.find(_RUN, end)

    def _look_at_each_offset(self, data: bytes) -> None:
        for start in range(len(data) - HASH_PART_LENGTH + 1):
            if data[start : start + HASH_PART_LENGTH] in self._wanted:
                self._note(data[start : start + HASH_PART_LENGTH])

    def _look_at_words(self, data: bytes) -> None:
        """Look up each aligned word: one lies in the first 15 bytes of any candidate."""
        words = memoryview(data)[: len(data) // _WORD * _WORD].cast("Q")
        index = self._index_words()
        if index.keys().isdisjoint(words):
            return
        for position, word in enumerate(words):
            if word in index:
                first = max(0, position * _WORD - _WORD + 1)
                around = data[first : position * _WORD + HASH_PART_LENGTH]
                for candidate in [c for c in index[word] if c in around]:
                    self._note(candidate)

    def _index_words(self) -> dict[int, set[bytes]]:
        """Map each word that some candidate has within its first 15 bytes to those candidates."""
        if self._words is None:
            self._words = {}
            for candidate in self._wanted:
                for word in _words_of(candidate):
                    self._words.setdefault(word, set()).add(candidate)
        return self._words

    def _note(self, candidate: bytes) -> None:
        """Record a candidate, and look for it no more."""
        self._found.add(candidate.decode("ascii"))
        self._wanted.discard(candidate)
        if self._words is None:
            return
        for word in _words_of(candidate):
            owners = self._words.get(word)
            if owners is not None:
                owners.discard(candidate)
                if not owners:
                    del self._words[word]


def _words_of(candidate: bytes) -> list[int]:
    starts = range(_WORD)
    return [memoryview(candidate[at : at + _WORD]).cast("Q")[0] for at in starts]


def find_references(data: bytes, candidates: Iterable[str]) -> frozenset[str]:
    """Return the candidates that occur in some bytes."""
    scanner = ReferenceScanner(candidates)
    scanner.feed(data)
    return scanner.found
