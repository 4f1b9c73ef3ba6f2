# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a stream of exported items from pieces of any size, without I/O.

Archives go to whoever takes them as they come; of the rest, nothing is kept
beyond the item at hand, and no length is used before it is compared with a
bound. The reader stops behind each item, so that it can be dealt with before
the next begins. Enter through `ExportReader`.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from store.errors import NarError
from store.exports.format import (
    MAGIC,
    MAX_REFERENCES,
    MAX_SIGNATURE,
    MAX_STRING,
    ExportError,
    Trailer,
)
from store.hashes import Digest, HashAlgorithm, Hasher
from store.paths import StoreDirectory, StorePath


class ArchiveBody(Protocol):
    """What takes the archive of one item, as `store.additions.Addition` does."""

    def feed(self, data: memoryview) -> int:
        """Take some more bytes; give how many belong to the archive."""

    @property
    def finished(self) -> bool:
        """Whether the archive has ended."""

    def archive_hasher(self) -> Hasher:
        """Give a sha256 hasher that has hashed the archive, which has ended."""


@dataclass(frozen=True, slots=True)
class ReadItem:
    """An item, all of which was read.

    Attributes:
        trailer: What the export says of it.
        digest: sha256 of what a signature has to cover.
        signature: As it came; None where there is none.
    """

    trailer: Trailer
    digest: Digest
    signature: bytes | None


_Step: TypeAlias = "int | ArchiveBody | ReadItem"
"""What the script asks for: so many bytes, or an archive; or an item it has read."""

_Script: TypeAlias = Generator[_Step, bytes, None]
_Reads: TypeAlias = Generator[_Step, bytes, bytes]
_ReadsNumber: TypeAlias = Generator[_Step, bytes, int]


class ExportReader:
    """Takes a stream apart.

    Feed it until `item` is set, deal with that, call `proceed`, and feed it the
    rest; until it is `finished`. After an error it is of no more use.

    Args:
        directory: The store whose items are expected.
        begin: Called for each item, gives what takes its archive.
    """

    def __init__(self, directory: StoreDirectory, begin: Callable[[], ArchiveBody]) -> None:
        self._directory = directory
        self._begin = begin
        self._hasher: Hasher | None = None
        self._partial = bytearray()
        self._script = self._read_items()
        self._step: _Step = next(self._script)
        #: The item that was read last, until `proceed`.
        self.item: ReadItem | None = None
        #: Whether the stream's end was read.
        self.finished = False

    def feed(self, data: memoryview) -> int:
        """Read some more of the stream, at most to the end of an item.

        Returns:
            How many of the bytes were taken; fewer than all only at the end of
            an item or of the stream.

        Raises:
            ExportError: This is no stream of items, or exceeds a bound.
            InvalidPathError: It names an item that no store can have.
            NarError: An archive is not what it must be; or else what the taker raises.
        """
        taken = 0
        while taken < len(data) and self.item is None and not self.finished:
            taken += self._take(data[taken:])
        return taken

    def proceed(self) -> None:
        """Go on to what follows the item."""
        assert self.item is not None
        self.item = None
        self._advance(b"")

    def end(self) -> None:
        """Say that no more bytes will come.

        Raises:
            ExportError: The stream is not complete.
        """
        if not self.finished:
            raise ExportError("unexpected end-of-file: the export ends before it is complete")

    def _take(self, data: memoryview) -> int:
        step = self._step
        if isinstance(step, int):
            return self._gather(data, step)
        assert not isinstance(step, ReadItem)
        taken = step.feed(data)
        if step.finished:
            self._advance(b"")
        elif taken < len(data):
            raise NarError("bad archive: it ends before it is complete")
        return taken

    def _gather(self, data: memoryview, wanted: int) -> int:
        piece = data[: wanted - len(self._partial)]
        self._partial += piece
        if len(self._partial) == wanted:
            whole = bytes(self._partial)
            self._partial.clear()
            self._advance(whole)
        return len(piece)

    def _advance(self, answer: bytes) -> None:
        """Give the script what it asked for, and learn what it asks for next."""
        try:
            self._step = self._script.send(answer)
        except StopIteration:
            self.finished = True
            return
        if isinstance(self._step, ReadItem):
            self.item = self._step

    def _read_items(self) -> _Script:
        while (mark := (yield from self._number())) != 0:
            if mark != 1:
                raise ExportError(
                    "input doesn't look like something created by `nix-store --export'"
                )
            body = self._begin()
            yield body
            self._hasher = body.archive_hasher()
            trailer = yield from self._trailer()
            digest = Digest(HashAlgorithm.SHA256, self._hasher.digest())
            self._hasher = None
            yield ReadItem(trailer, digest, (yield from self._signature()))

    def _signature(self) -> Generator[_Step, bytes, bytes | None]:
        mark = yield from self._number()
        if mark > 1:
            raise ExportError(f"the number {mark} in the place of a signature")
        return (yield from self._string(MAX_SIGNATURE, "a signature")) if mark else None

    def _trailer(self) -> Generator[_Step, bytes, Trailer]:
        if (yield from self._number()) != MAGIC:
            raise ExportError("normalized archive cannot be imported; wrong format")
        path = self._directory.parse((yield from self._text()))
        count = yield from self._number()
        if count > MAX_REFERENCES:
            raise ExportError(
                f"`{path}' has {count} references, where {MAX_REFERENCES} are allowed"
            )
        references: set[StorePath] = set()
        for _ in range(count):
            references.add(self._directory.parse((yield from self._text())))
        deriver = yield from self._text()
        known = self._directory.parse(deriver) if deriver else None
        return Trailer(path, frozenset(references), known)

    def _text(self) -> Generator[_Step, bytes, str]:
        data = yield from self._string(MAX_STRING, "a path")
        return data.decode("utf-8", "surrogateescape")

    def _string(self, limit: int, what: str) -> _Reads:
        size = yield from self._number()
        if size > limit:
            raise ExportError(f"{what} of {size} bytes in an export, where {limit} are allowed")
        padded = size + -size % 8
        data = (yield from self._bytes(padded)) if padded else b""
        if any(data[size:]):
            raise ExportError("non-zero padding in an export")
        return data[:size]

    def _number(self) -> _ReadsNumber:
        return int.from_bytes((yield from self._bytes(8)), "little")

    def _bytes(self, count: int) -> _Reads:
        data = yield count
        if self._hasher is not None:
            self._hasher.update(data)
        return data
