# SPDX-License-Identifier: GPL-3.0-or-later
"""Deduplicating items that are in the store already.

What is linked in `.links` is known by its inode and not even looked at, so that
a store which was gone through before takes little more than listing it. A file
is hashed and replaced through the same descriptor. Runs in store workers. Entry
points: `write_inodes`, `KnownInodes`, `share_files`.
"""

import mmap
import os
import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from store.errors import FileError
from store.files import open_beneath
from store.hashes import Digest, HashAlgorithm, new_hasher
from store.links import MINIMUM_SIZE, Links, seal_directory
from store.nar.events import Content, NarEvent, Regular
from store.nar.writer import write

_BLOCK = 1 << 18
# O_NONBLOCK: a FIFO that takes the place of a file must not make us wait.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_INODE_SIZE = 8


def write_inodes(links_fd: int, index_fd: int) -> int:
    """Write the inode numbers of all deduplicated files into an empty file; return how many.

    Args:
        links_fd: The directory of deduplicated files.
        index_fd: Gets them sorted, 8 bytes each, in the machine's order.
    """
    with os.scandir(links_fd) as entries:
        inodes = array("Q", sorted({entry.inode() for entry in entries}))
    data = memoryview(inodes).cast("B")
    while data:
        data = data[os.write(index_fd, data) :]
    return len(inodes)


class KnownInodes:
    """The inode numbers that `write_inodes` wrote, mapped rather than read; `close` it."""

    def __init__(self, index_fd: int) -> None:
        size = os.fstat(index_fd).st_size
        if size % _INODE_SIZE:
            raise FileError("the index of deduplicated files was cut short")
        # What is empty cannot be mapped.
        self._map = mmap.mmap(index_fd, size, prot=mmap.PROT_READ) if size else None
        self._bytes = memoryview(self._map if self._map is not None else b"")
        self._inodes = self._bytes.cast("Q")

    def __contains__(self, inode: int) -> bool:
        position = bisect_left(self._inodes, inode)
        return position < len(self._inodes) and self._inodes[position] == inode

    def close(self) -> None:
        """Unmap them."""
        self._inodes.release()
        self._bytes.release()
        if self._map is not None:
            self._map.close()


@dataclass(slots=True)
class Shared:
    """What deduplicating an item came to.

    Attributes:
        files: Files that became links to others.
        size: How long these are together, in bytes.
        writable: Files left alone because somebody may have changed them, relative
            to the store.
    """

    files: int = 0
    size: int = 0
    writable: list[str] = field(default_factory=list)


def share_files(
    store_fd: int, name: str, links_fd: int, known: KnownInodes, shared: Shared
) -> None:
    """Deduplicate an item of the store, whose directories stay canonical.

    Args:
        store_fd: The store.
        name: The item's name there.
        links_fd: The directory of deduplicated files.
        known: What is linked there.
        shared: Gets what came of it, as far as it went.

    Raises:
        FileError: Something changed while it was read.
        OSError: Something cannot be read or linked; the rest was not looked at.
    """
    links = Links(links_fd)
    try:
        _Sharing(store_fd, links, known, shared).run(name)
    finally:
        shared.files, shared.size = links.replaced, links.replaced_size


class _Sharing:
    """One item that is being gone through."""

    def __init__(self, store_fd: int, links: Links, known: KnownInodes, shared: Shared) -> None:
        self._store_fd = store_fd
        self._links = links
        self._known = known
        self._shared = shared
        self._pending: list[str] = []

    def run(self, name: str) -> None:
        status = os.lstat(name, dir_fd=self._store_fd)
        if stat.S_ISDIR(status.st_mode):
            self._pending.append(name)
        elif self._concerns_us(status, name):
            self._share(self._store_fd, name)
        while self._pending:
            self._go_through(self._pending.pop())

    def _go_through(self, path: str) -> None:
        """Share the files of one directory; note the directories in it."""
        fd = open_beneath(self._store_fd, path, _DIRECTORY)
        try:
            names = list(self._files(fd, path))
            if names:
                with _writable(fd):
                    for name in names:
                        self._share(fd, name)
        finally:
            os.close(fd)

    def _files(self, fd: int, path: str) -> Iterator[str]:
        with os.scandir(fd) as entries:
            for entry in entries:
                below = f"{path}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    self._pending.append(below)
                elif self._is_unknown_file(entry) and self._concerns_us(
                    entry.stat(follow_symlinks=False), below
                ):
                    yield entry.name

    def _is_unknown_file(self, entry: "os.DirEntry[str]") -> bool:
        return entry.is_file(follow_symlinks=False) and entry.inode() not in self._known

    def _concerns_us(self, status: os.stat_result, path: str) -> bool:
        if not stat.S_ISREG(status.st_mode) or status.st_size < MINIMUM_SIZE:
            return False
        if status.st_mode & stat.S_IWUSR:
            # A program with root's rights wrote to it, perhaps; its name would be a lie.
            self._shared.writable.append(path)
            return False
        return status.st_ino not in self._known

    def _share(self, dirfd: int, name: str) -> None:
        fd = os.open(name, _FILE, dir_fd=dirfd)
        try:
            self._links.deduplicate(dirfd, name, fd, _archive_hash(fd, name))
        finally:
            os.close(fd)


@contextmanager
def _writable(fd: int) -> Iterator[None]:
    os.fchmod(fd, 0o755)
    try:
        yield
    finally:
        seal_directory(fd)


def _archive_hash(fd: int, name: str) -> Digest:
    """Hash the archive form of an open file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"`{name}' was replaced while it was read")
    hasher = new_hasher(HashAlgorithm.SHA256)
    for piece in write(_events(fd, status, name)):
        hasher.update(piece)
    return Digest(HashAlgorithm.SHA256, hasher.digest())


def _events(fd: int, status: os.stat_result, name: str) -> Iterator[NarEvent]:
    size = status.st_size
    yield Regular(b"", bool(status.st_mode & stat.S_IXUSR), size)
    buffer = memoryview(bytearray(min(size, _BLOCK)))
    while size:
        count = os.readv(fd, [buffer[: min(size, _BLOCK)]])
        if not count:
            raise FileError(f"`{name}' became shorter while it was read")
        yield Content(buffer[:count])
        size -= count
