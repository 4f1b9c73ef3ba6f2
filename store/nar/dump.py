# SPDX-License-Identifier: GPL-3.0-or-later
"""Walk a tree on disk and write it as an archive.

Everything is reached from a directory's file descriptor, one name at a time and
never through a symbolic link, so that whoever can still change the tree cannot
lead the walk out of it. The walk keeps a stack of its own and one descriptor
for each directory it is in. Enter through `dump`.
"""

import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

from store.errors import FileError
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular, Symlink
from store.nar.reader import DEFAULT_LIMITS, NarLimits
from store.nar.writer import write

# Large enough that hashing hides the system calls, small enough for the cache.
_CHUNK: Final = 1 << 18

# O_NONBLOCK: a FIFO that takes the place of a file must not make the walk wait.
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OPEN_DIRECTORY: Final = _OPEN_FILE | os.O_DIRECTORY

_FILE_TYPES: Final = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def dump(
    dirfd: int, name: str | bytes, limits: NarLimits = DEFAULT_LIMITS
) -> Generator[bytes | memoryview]:
    """Write a file, link or tree as an archive.

    Args:
        dirfd: The directory it is in.
        name: Its name there, a single component.
        limits: Only the depth matters.

    Yields:
        The archive's bytes; each piece is valid until the next one is asked for.

    Raises:
        FileError: Something in it is no file, directory or link, cannot be read,
            changes while it is read, or lies too deep.
    """
    events = walk(dirfd, name, limits)
    try:
        yield from write(events)
    finally:
        events.close()


def walk(dirfd: int, name: str | bytes, limits: NarLimits = DEFAULT_LIMITS) -> Generator[NarEvent]:
    """Yield the events of a file, link or tree; see `dump`."""
    root = os.fsencode(name)
    assert root not in {b"", b".", b".."}
    assert b"/" not in root
    walker = _Walker(limits)
    try:
        yield from walker.run(dirfd, root)
    except OSError as error:
        raise FileError(f"cannot read `{walker.path}': {error.strerror}") from error
    finally:
        walker.close()


@dataclass(slots=True)
class _Level:
    """An open directory and those of its entries that are still to come."""

    fd: int
    name: bytes
    entries: Iterator[tuple[bytes, int]]


class _Walker:
    """Where a walk is: the open directories, and the name it looks at in the innermost."""

    __slots__ = ("_buffer", "_levels", "_limits", "_name")

    def __init__(self, limits: NarLimits) -> None:
        self._limits = limits
        self._levels: list[_Level] = []
        self._name = b""
        self._buffer = memoryview(b"")

    @property
    def path(self) -> str:
        names = [level.name for level in self._levels]
        return os.fsdecode(b"/".join([*names, self._name]))

    def close(self) -> None:
        while self._levels:
            os.close(self._levels.pop().fd)

    def run(self, dirfd: int, root: bytes) -> Iterator[NarEvent]:
        self._name = root
        kind = stat.S_IFMT(os.stat(root, dir_fd=dirfd, follow_symlinks=False).st_mode)
        yield from self._node(dirfd, b"", kind)
        while self._levels:
            level = self._levels[-1]
            name, kind = next(level.entries, (b"", 0))
            if name:
                self._name = name
                yield from self._node(level.fd, name, kind)
            else:
                os.close(self._levels.pop().fd)
                yield DirectoryEnd()

    def _node(self, dirfd: int, name: bytes, kind: int) -> Iterator[NarEvent]:
        if kind == stat.S_IFREG:
            yield from self._file(dirfd, name)
        elif kind == stat.S_IFDIR:
            self._enter(dirfd)
            yield Directory(name)
        elif kind == stat.S_IFLNK:
            yield Symlink(name, os.readlink(self._name, dir_fd=dirfd))
        else:
            word = _FILE_TYPES.get(kind, "file of an unknown kind")
            raise FileError(f"file `{self.path}' has an unsupported type: it is a {word}")

    def _enter(self, dirfd: int) -> None:
        if len(self._levels) == self._limits.depth:
            raise FileError(f"`{self.path}' lies more than {self._limits.depth} directories deep")
        fd = os.open(self._name, _OPEN_DIRECTORY, dir_fd=dirfd)
        level = _Level(fd, self._name, iter(()))
        self._levels.append(level)
        level.entries = iter(_entries(fd))

    def _file(self, dirfd: int, name: bytes) -> Iterator[NarEvent]:
        fd = os.open(self._name, _OPEN_FILE, dir_fd=dirfd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FileError(f"`{self.path}' was replaced while it was read")
            yield Regular(name, bool(status.st_mode & stat.S_IXUSR), status.st_size)
            yield from self._content(fd, status.st_size)
        finally:
            os.close(fd)

    def _content(self, fd: int, size: int) -> Iterator[NarEvent]:
        if size and not self._buffer:
            self._buffer = memoryview(bytearray(_CHUNK))
        while size:
            count = os.readv(fd, [self._buffer[: min(size, _CHUNK)]])
            if not count:
                raise FileError(f"`{self.path}' became shorter while it was read")
            yield Content(self._buffer[:count])
            size -= count


def _entries(fd: int) -> list[tuple[bytes, int]]:
    with os.scandir(fd) as entries:
        return sorted((os.fsencode(entry.name), _kind(entry)) for entry in entries)


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
