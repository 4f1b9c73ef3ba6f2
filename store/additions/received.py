# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies of additions: bytes in, a finished tree in the private directory and its hashes out.

A body is fed to an `Addition` as it is received, on any thread, by one at a
time. It goes straight to the disk, and is hashed on the way: nothing of its
size is ever in memory. `receive` picks the kind.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

from store.additions.incoming import Incoming
from store.errors import FileError, NarError
from store.hashes import Digest, HashAlgorithm, Hasher, new_hasher
from store.hashing import ArchivedFileHasher, BackgroundHasher, archived_file
from store.links import MINIMUM_SIZE
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular
from store.nar.reader import NarReader
from store.nar.restore import Restorer

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SECOND = 1_000_000_000
_BLOCK = 1 << 18

LinkDigests = tuple[tuple[tuple[bytes, ...], Digest], ...]


class Body(Enum):
    """What form a body has.

    NAR: An archive, which tells where it ends. Of a flat addition it is that of one file.
    PLAIN: The bytes of a file, whose end the caller knows.
    """

    NAR = "nar"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Received:
    """What a body turned out to be.

    Attributes:
        digest: The hash asked for, of the file's bytes or of the archive.
        nar_hash: sha256 of the archive form.
        nar_size: Bytes of the archive form.
        links: The files that could be deduplicated, with the hashes of their archive
            forms; those of one directory stand together.
    """

    digest: Digest
    nar_hash: Digest
    nar_size: int
    links: LinkDigests


class Addition(ABC):
    """A body that is being received.

    Attributes:
        name: In the private directory.
        recursive: Whether the archive is hashed, or the bytes of a single file.
        finished: Whether the body has ended.
        taken: Bytes of the body so far.
    """

    def __init__(self, incoming: Incoming, *, recursive: bool) -> None:
        self.name = incoming.new_name()
        self.recursive = recursive
        self.finished = False
        self.taken = 0

    def feed(self, data: memoryview) -> int:
        """Take some more bytes; return how many belong to the body.

        Raises:
            NarError: They are not what the body must be.
            FileError: The system refuses to store them.
        """
        taken = self._take(data)
        self.taken += taken
        return taken

    @abstractmethod
    def _take(self, data: memoryview) -> int: ...

    @abstractmethod
    def end(self) -> Received:
        """Complete the item; call it once, when the body has ended.

        Raises:
            NarError: The body is incomplete.
        """

    @abstractmethod
    def close(self) -> None:
        """Close what is open; does no harm a second time, nor before the end."""


def receive(
    incoming: Incoming, algorithm: HashAlgorithm, *, recursive: bool, body: Body, size: int | None
) -> Addition:
    """Begin to receive a body; see `StoreWriter.begin_addition`."""
    if recursive:
        return Tree(incoming, algorithm)
    if body is Body.NAR:
        return _ArchivedFile(incoming, algorithm)
    return _PlainFile(incoming, algorithm, size)


class Tree(Addition):
    """An archive that is unpacked, and is itself hashed."""

    def __init__(self, incoming: Incoming, algorithm: HashAlgorithm) -> None:
        super().__init__(incoming, recursive=True)
        self._reader = NarReader()
        self._restorer = Restorer(incoming.fd, self.name)
        self._links = _LinkHasher()
        self._nar = BackgroundHasher(new_hasher(HashAlgorithm.SHA256))
        self._algorithm = algorithm
        self._other = (
            BackgroundHasher(new_hasher(algorithm))
            if algorithm is not HashAlgorithm.SHA256
            else None
        )

    def _take(self, data: memoryview) -> int:
        events = self._reader.feed(data)
        taken = len(data) - self._reader.excess
        piece = data[:taken]
        if self._other is not None:
            self._other.update(piece)
        self._nar.update(piece)
        self._links.apply(events)
        self._restorer.apply(events)
        self.finished = self._reader.finished
        return taken

    def archive_hasher(self) -> Hasher:
        """Return a sha256 hasher that has hashed the archive, once that has ended."""
        return self._nar.copy()

    def end(self) -> Received:
        """Complete the tree; see `Addition.end`."""
        self._reader.end()
        self._restorer.close()
        nar_hash = Digest(HashAlgorithm.SHA256, self._nar.digest())
        other = self._other
        digest = Digest(self._algorithm, other.digest()) if other is not None else nar_hash
        size = self._reader.consumed
        return Received(digest, nar_hash, size, self._links.finish(nar_hash))

    def close(self) -> None:
        """Close what is open; see `Addition.close`."""
        self._restorer.close()
        self._links.close()
        self._nar.close()
        if self._other is not None:
            self._other.close()


class _LinkHasher:
    """Hashes the archive form of each large file of an archive."""

    def __init__(self) -> None:
        self._directories: list[bytes] = []
        self._remaining = 0
        self._where: tuple[bytes, ...] = ()
        self._hasher: ArchivedFileHasher | None = None
        self._is_file = False
        self._found: list[tuple[tuple[bytes, ...], Digest]] = []

    def apply(self, events: list[NarEvent]) -> None:
        for event in events:
            if isinstance(event, Content):
                if self._hasher is not None:
                    self._update(self._hasher, event.data)
            elif isinstance(event, Regular):
                self._begin(event)
            elif isinstance(event, Directory):
                self._directories.append(event.name)
            elif isinstance(event, DirectoryEnd):
                self._directories.pop()

    def _begin(self, event: Regular) -> None:
        if event.size < MINIMUM_SIZE:
            return
        if not self._directories:
            # The archive of the only file is the one that is hashed anyway.
            self._is_file = True
            return
        self._where = (*self._directories[1:], event.name)
        self._remaining = event.size
        self._hasher = ArchivedFileHasher(event.size, executable=event.executable)

    def _update(self, hasher: ArchivedFileHasher, data: memoryview) -> None:
        hasher.update(data)
        self._remaining -= len(data)
        if not self._remaining:
            self._found.append((self._where, hasher.digest()))
            self._hasher = None

    def finish(self, nar_hash: Digest) -> LinkDigests:
        if self._is_file:
            return (((), nar_hash),)
        # Files of one directory need not have come together: there may be others in between.
        return tuple(sorted(self._found, key=lambda found: found[0][:-1]))

    def close(self) -> None:
        if self._hasher is not None:
            self._hasher.close()


class _File(Addition):
    """A file whose bytes are hashed, and whose archive form is hashed as well."""

    def __init__(self, incoming: Incoming, algorithm: HashAlgorithm) -> None:
        super().__init__(incoming, recursive=False)
        self._algorithm = algorithm
        self._flat = BackgroundHasher(new_hasher(algorithm))
        self._archived: ArchivedFileHasher | None = None
        self._size = 0
        self._fd = os.open(self.name, _CREATE, 0o444, dir_fd=incoming.fd)

    def _begin(self, size: int) -> None:
        self._archived = ArchivedFileHasher(size, executable=False)

    def _write(self, data: memoryview) -> None:
        self._flat.update(data)
        if self._archived is not None:
            self._archived.update(data)
        self._size += len(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise _cannot_write(error) from error

    def _complete(self) -> Received:
        if self._archived is None:
            self._read_again()
        archived = self._archived
        assert archived is not None
        _make_canonical(self._fd)
        nar_hash = archived.digest()
        digest = Digest(self._algorithm, self._flat.digest())
        links = (((), nar_hash),) if self._size >= MINIMUM_SIZE else ()
        self.close()
        return Received(digest, nar_hash, archived.nar_size, links)

    def _read_again(self) -> None:
        """Hash the archive form, which begins with the size that was not known."""
        self._archived = ArchivedFileHasher(self._size, executable=False)
        os.lseek(self._fd, 0, os.SEEK_SET)
        while data := os.read(self._fd, _BLOCK):
            self._archived.update(data)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._flat.close()
        if self._archived is not None:
            self._archived.close()


class _ArchivedFile(_File):
    """A file that comes in an archive, which is not kept."""

    def __init__(self, incoming: Incoming, algorithm: HashAlgorithm) -> None:
        super().__init__(incoming, algorithm)
        self._reader = NarReader()

    def _take(self, data: memoryview) -> int:
        for event in self._reader.feed(data):
            if isinstance(event, Content):
                self._write(event.data)
            elif isinstance(event, Regular):
                self._begin(event.size)
            else:
                raise NarError("regular file expected")
        self.finished = self._reader.finished
        return len(data) - self._reader.excess

    def end(self) -> Received:
        self._reader.end()
        return self._complete()


class _PlainFile(_File):
    """A file that comes as it is."""

    def __init__(self, incoming: Incoming, algorithm: HashAlgorithm, size: int | None) -> None:
        super().__init__(incoming, algorithm)
        self._expected = size
        if size is not None:
            self._begin(size)
            self.finished = not size

    def _take(self, data: memoryview) -> int:
        if self._expected is not None:
            data = data[: self._expected - self._size]
        self._write(data)
        self.finished = self._size == self._expected
        return len(data)

    def end(self) -> Received:
        if self._expected is not None and not self.finished:
            raise NarError(f"{self._size} bytes came, where {self._expected} were announced")
        return self._complete()


def write_text(dirfd: int, name: str, text: bytes) -> Received:
    """Make a file of a text that is at hand.

    Raises:
        FileExistsError: Something has the name.
        FileError: The system refuses; there may be a part of the file then.
    """
    archived = archived_file(text)
    nar_hash = Digest(HashAlgorithm.SHA256, sha256(archived).digest())
    try:
        fd = os.open(name, _CREATE, 0o444, dir_fd=dirfd)
        try:
            rest = text
            while rest:
                rest = rest[os.write(fd, rest) :]
            _make_canonical(fd)
        finally:
            os.close(fd)
    except FileExistsError:
        raise
    except OSError as error:
        raise _cannot_write(error) from error
    links = (((), nar_hash),) if len(text) >= MINIMUM_SIZE else ()
    return Received(nar_hash, nar_hash, len(archived), links)


def _make_canonical(fd: int) -> None:
    # The mode given at creation was cut by the process's umask.
    os.fchmod(fd, 0o444)
    os.utime(fd, ns=(_SECOND, _SECOND))


def _cannot_write(error: OSError) -> FileError:
    return FileError(f"cannot write a file of the store: {error.strerror}")
