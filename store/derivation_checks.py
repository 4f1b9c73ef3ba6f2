# SPDX-License-Identifier: GPL-3.0-or-later
"""Checking derivations on their way into the store.

Whoever adds a derivation states the paths of its outputs; they must be those
that follow from it, or anybody could claim any path. What follows depends on
the hashes of its input derivations, and theirs: those are remembered. Entry
point: `DerivationChecker`.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping

from store.derivations import (
    Derivation,
    check_output_paths,
    fill_output_paths,
    input_hashes,
    parse_derivation,
)
from store.errors import DerivationError
from store.paths import StoreDirectory, StorePath
from store.tally import CacheStatistics, Rule, Tally

#: Hashes remembered; each takes about 200 bytes.
_REMEMBERED = 100_000
#: Bytes of a derivation; one with 10,000 inputs has one million.
MAX_SIZE = 64 * 1024 * 1024


class DerivationChecker:
    """Checks derivations, by any thread.

    Args:
        directory: The store's paths.
    """

    def __init__(self, directory: StoreDirectory) -> None:
        self._directory = directory
        self._hashes = _Remembered(_REMEMBERED)

    def check(self, path: StorePath, text: bytes) -> Derivation:
        """Return a derivation if its outputs are what they must be.

        Reads input derivations that it does not remember, so it may block.

        Raises:
            DerivationError: The text is no derivation, an output is not what
                follows from it, or an input is missing.
        """
        derivation = parse_derivation(text, self._directory, path)
        known = input_hashes(derivation, self._read, self._hashes)
        check_output_paths(path, derivation, self._directory, known.__getitem__)
        return derivation

    def complete(self, derivation: Derivation, name: str) -> Derivation:
        """Return a new derivation's final form, in which outputs and variables name their paths.

        Reads input derivations that it does not remember, so it may block.

        Args:
            derivation: The derivation; what it says of output paths is overwritten.
            name: Its name, without ``.drv``.

        Raises:
            DerivationError: An input is missing, or contradicts itself.
            StoreError: A fixed output's hash, an output's name or the name is unsuitable.
        """
        known = input_hashes(derivation, self._read, self._hashes)
        return fill_output_paths(derivation, name, self._directory, known.__getitem__)

    def is_quick(self, references: frozenset[StorePath], size: int) -> bool:
        """Tell whether checking a derivation with these references will not block for long."""
        return size <= 1 << 15 and all(
            path in self._hashes for path in references if path.endswith(".drv")
        )

    def statistics(self, name: str) -> CacheStatistics:
        """Return how what it remembers does as a cache of some name."""
        return self._hashes.statistics(name)

    def _read(self, path: StorePath) -> Derivation:
        try:
            text = read_text(None, path)
        except OSError as error:
            raise DerivationError(f"cannot read derivation `{path}': {error.strerror}") from error
        return parse_derivation(text, self._directory, path)


def read_text(dirfd: int | None, path: str) -> bytes:
    """Read the file of a derivation.

    Raises:
        DerivationError: It is too large.
        OSError: It is no file that can be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags, dir_fd=dirfd), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_SIZE:
            raise DerivationError(f"a derivation of {size} bytes, where {MAX_SIZE} are allowed")
        return file.read(size)


class _Remembered(MutableMapping[StorePath, bytes]):
    """A mapping that forgets what was not used for longest; for any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[StorePath, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._tally = Tally(rule=Rule.UNUSED)

    def __getitem__(self, path: StorePath) -> bytes:
        with self._lock:
            self._tally.looked_up(found=path in self._entries)
            value = self._entries[path]
            self._entries.move_to_end(path)
            return value

    def __setitem__(self, path: StorePath, value: bytes) -> None:
        with self._lock:
            self._entries[path] = value
            if len(self._entries) > self._limit:
                self._entries.popitem(last=False)
                self._tally.evictions += 1

    def statistics(self, name: str) -> CacheStatistics:
        """Return how this does as a cache of some name."""
        with self._lock:
            return self._tally.of_entries(name, len(self._entries), self._limit)

    def __delitem__(self, path: StorePath) -> None:
        with self._lock:
            del self._entries[path]

    def __contains__(self, path: object) -> bool:
        return path in self._entries

    def __iter__(self) -> Iterator[StorePath]:
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
