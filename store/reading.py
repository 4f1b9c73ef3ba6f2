# SPDX-License-Identifier: GPL-3.0-or-later
"""One pass over a tree that yields all that is worth knowing of it.

That is the hash and size of its archive form, the references in it, the hash of
each file that may be shared, and for a fixed output the hash that was stated.
Entry point: `Reading`.
"""

from collections.abc import Iterable, Iterator

from store.hashes import Digest, HashAlgorithm, Hasher, new_hasher
from store.links import MINIMUM_SIZE
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular
from store.nar.writer import file_surroundings, write
from store.references import ReferenceScanner
from store.worker.messages import FixedContent

GATHERED = 64 * 1024
"""Bytes of structure and small files that are hashed and searched at once."""

Where = tuple[bytes, ...]


class Reading:
    """What is learnt while an archive passes by.

    Args:
        candidates: The hash parts that may occur.
        fixed: What the content should be, if that is known.

    Attributes:
        size: Bytes of the archive so far.
        files: Where each file lies that may be shared, and the hash of its own archive form.
    """

    def __init__(self, candidates: Iterable[str], fixed: FixedContent | None) -> None:
        self.size = 0
        self.files: list[tuple[Where, Digest]] = []
        self._scanner = ReferenceScanner(candidates)
        self._nar = new_hasher(HashAlgorithm.SHA256)
        self._content = _content_hasher(fixed)
        self._flat = fixed is not None and not fixed.recursive
        self._gathered = bytearray()

    @property
    def references(self) -> frozenset[str]:
        """The candidates that occurred."""
        return self._scanner.found

    def nar_digest(self) -> bytes:
        """Return the sha256 of the archive."""
        return self._nar.digest()

    def content_digest(self) -> bytes:
        """Return the hash that a fixed output states."""
        return (self._content or self._nar).digest()

    def take_all(self, events: Iterable[NarEvent]) -> None:
        """Take a whole archive."""
        for piece in write(self._noted(events)):
            if len(piece) + len(self._gathered) < GATHERED:
                self._gathered += piece
            else:
                self._flush()
                self._digest(bytes(piece))
        self._flush()

    def _flush(self) -> None:
        if self._gathered:
            data = bytes(self._gathered)
            self._gathered.clear()
            self._digest(data)

    def _digest(self, data: bytes) -> None:
        self.size += len(data)
        self._nar.update(data)
        if self._content is not None and not self._flat:
            self._content.update(data)
        self._scanner.feed(data)

    def _noted(self, events: Iterable[NarEvent]) -> Iterator[NarEvent]:
        """Pass events on, and take note of the files among them."""
        where: list[bytes] = []
        file: _FileHash | None = None
        for event in events:
            yield event
            if isinstance(event, Content):
                if self._flat and self._content is not None:
                    self._content.update(event.data)
                if file is not None and file.take(event.data):
                    self.files.append((file.where, file.digest()))
                    file = None
            elif isinstance(event, Directory):
                where.append(event.name)
            elif isinstance(event, DirectoryEnd):
                where.pop()
            elif isinstance(event, Regular) and event.size >= MINIMUM_SIZE:
                # The root of the tree has no name of its own in it.
                file = _FileHash((*where, event.name)[1:], event)


class _FileHash:
    """The hash of one file's archive form, as its content passes by."""

    def __init__(self, where: Where, file: Regular) -> None:
        self.where = where
        self._left = file.size
        before, self._after = file_surroundings(file.size, executable=file.executable)
        self._hasher = new_hasher(HashAlgorithm.SHA256)
        self._hasher.update(before)

    def take(self, data: memoryview) -> bool:
        """Take some content; return whether it was the last."""
        self._hasher.update(data)
        self._left -= len(data)
        return not self._left

    def digest(self) -> Digest:
        """Return the hash, once all content was taken."""
        self._hasher.update(self._after)
        return Digest(HashAlgorithm.SHA256, self._hasher.digest())


def _content_hasher(fixed: FixedContent | None) -> Hasher | None:
    """Return a hasher for what a fixed output states, None where that is the archive's sha256."""
    if fixed is None or (fixed.recursive and fixed.algorithm == HashAlgorithm.SHA256):
        return None
    return new_hasher(HashAlgorithm.parse(fixed.algorithm))
