# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk over one output: checks and canonical metadata on the way, archive events out.

Each file and directory is opened once, checked by its descriptor, changed by
its descriptor, and read through it; a name only ever leads from a descriptor
to its direct entry.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from store.errors import FileError
from store.files import open_with_rights
from store.hashing import ArchivedFileHasher
from store.links import MINIMUM_SIZE, Links
from store.metadata import Canonicaliser, unsupported_type
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular, Symlink
from store.nar.reader import DEFAULT_LIMITS
from store.syscalls import openat2

_CHUNK = 1 << 18
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OPEN_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    """An open directory, and those of its entries that are still to come, the last first."""

    fd: int
    path: str
    entries: list[tuple[bytes, int]]
    claimed: bool


class SealingWalk:
    """Walks one output; iterate over `events` to the end, and `close` in any case.

    Args:
        canonicaliser: Checks owners, and changes metadata.
        links: Deduplicates files below the output itself; None for not at all.
    """

    def __init__(self, canonicaliser: Canonicaliser, links: Links | None) -> None:
        self._canonicaliser = canonicaliser
        self._links = links
        self._levels: list[_Level] = []
        self.saved = 0

    def close(self) -> None:
        """Close all descriptors."""
        while self._levels:
            os.close(self._levels.pop().fd)

    def events(self, dirfd: int, name: str, path: str) -> Iterator[NarEvent]:
        """Yield what the output's archive says.

        Args:
            dirfd: The directory it is in.
            name: Its name there.
            path: What to call it in messages.

        Raises:
            FileError: Something in it is of another owner or type, or too deep.
            OSError: Something cannot be read or changed.
        """
        root = os.fsencode(name)
        kind = stat.S_IFMT(os.lstat(root, dir_fd=dirfd).st_mode)
        yield from self._node(dirfd, root, kind, path, b"")
        while self._levels:
            level = self._levels[-1]
            if level.entries:
                entry, kind = level.entries.pop()
                below = f"{level.path}/{os.fsdecode(entry)}"
                yield from self._node(level.fd, entry, kind, below, entry)
            else:
                self._leave()
                yield DirectoryEnd()

    def _node(
        self, dirfd: int, entry: bytes, kind: int, path: str, name: bytes
    ) -> Iterator[NarEvent]:
        if kind == stat.S_IFREG:
            yield from self._file(dirfd, entry, path, name)
        elif kind == stat.S_IFDIR:
            self._enter(dirfd, entry, path)
            yield Directory(name)
        elif kind == stat.S_IFLNK:
            yield Symlink(name, self._link(dirfd, entry, path))
        else:
            raise unsupported_type(path)

    def _enter(self, dirfd: int, entry: bytes, path: str) -> None:
        if len(self._levels) == DEFAULT_LIMITS.depth:
            raise FileError(f"`{path}' lies more than {DEFAULT_LIMITS.depth} directories deep")
        fd = open_with_rights(dirfd, os.fsdecode(entry))
        level = _Level(fd, path, [], claimed=False)
        self._levels.append(level)
        level.claimed = self._canonicaliser.claim(os.fstat(fd), path)
        level.entries = _entries(fd)

    def _leave(self) -> None:
        level = self._levels.pop()
        try:
            # Last, because deduplication changes the directory.
            self._canonicaliser.settle(level.fd, os.fstat(level.fd))
        finally:
            os.close(level.fd)

    def _link(self, dirfd: int, entry: bytes, path: str) -> bytes:
        fd = os.open(entry, _OPEN_PATH, dir_fd=dirfd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISLNK(status.st_mode):
                raise replaced(path)
            if self._canonicaliser.claim(status, path):
                self._canonicaliser.settle_link(fd, status)
            return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)

    def _file(self, dirfd: int, entry: bytes, path: str, name: bytes) -> Iterator[NarEvent]:
        fd = open_file(dirfd, entry)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise replaced(path)
            if self._canonicaliser.claim(status, path):
                self._canonicaliser.settle(fd, status)
            executable = bool(status.st_mode & stat.S_IXUSR)
            yield Regular(name, executable, status.st_size)
            # The output's own hash is that of its only file; whoever has it does the rest.
            if self._links is None or not name or status.st_size < MINIMUM_SIZE:
                yield from _content(fd, status.st_size, path, None)
                return
            hasher = ArchivedFileHasher(status.st_size, executable=executable)
            try:
                yield from _content(fd, status.st_size, path, hasher)
                self.saved += self._links.deduplicate(dirfd, entry, fd, hasher.digest())
            finally:
                hasher.close()
        finally:
            os.close(fd)


def _content(
    fd: int, size: int, path: str, hasher: ArchivedFileHasher | None
) -> Iterator[NarEvent]:
    while size:
        data = os.read(fd, min(size, _CHUNK))
        if not data:
            raise FileError(f"`{path}' became shorter while it was read")
        if hasher is not None:
            hasher.update(data)
        yield Content(memoryview(data))
        size -= len(data)


def open_file(dirfd: int, entry: str | bytes) -> int:
    """Open a file that is ours to read, even where its mode is against it.

    Raises:
        FileError: It is something else.
        OSError: It cannot be opened.
    """
    try:
        return os.open(entry, _OPEN, dir_fd=dirfd)
    except PermissionError:
        # Ours, but without the right to read it; its name in /proc cannot be swapped.
        fd = openat2(dirfd, entry, _OPEN_PATH, 0)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise
            os.chmod(f"/proc/self/fd/{fd}", os.fstat(fd).st_mode & 0o777 | 0o400)
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise replaced(os.fsdecode(entry)) from error
        raise


def _entries(fd: int) -> list[tuple[bytes, int]]:
    with os.scandir(fd) as entries:
        return sorted(((os.fsencode(entry.name), _kind(entry)) for entry in entries), reverse=True)


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_symlink():
        return stat.S_IFLNK
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


def replaced(path: str) -> FileError:
    """Make the error for what is something else than it was."""
    return FileError(f"`{path}' was replaced while it was read")
