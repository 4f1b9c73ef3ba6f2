# SPDX-License-Identifier: GPL-3.0-or-later
"""What files and directories of a medium look like, and their hashes; cancelled between pieces.

A stamp is what something looks like without reading it: if it is the same as it was,
the hashes are taken to be. Nothing is opened by following links, and nothing but what
is known to be a file. Entry points: `hash_file`, `tree_stamp`, `hash_tree`.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from store.hashes import HashAlgorithm, new_hasher
from store.nar.dump import dump
from store.nar.reader import DEFAULT_LIMITS
from store.syscalls import (
    RESOLVE_WITHIN,
    openat2,
)

LARGEST = 1 << 36
"""Bytes of the largest file that is hashed; a sparse one can pretend to any size."""

ARCHIVE_OVERHEAD = 256
"""Bytes that the archive form of a file has more than the file, at most."""

_CHUNK = 1 << 20
_WRAP = 1 << 256

ShouldStop = Callable[[], bool]


class Stopped(Exception):  # noqa: N818 - it is no error
    """The work is to end."""


def file_stamp(status: os.stat_result) -> bytes:
    """Tell what a file looks like."""
    return struct.pack("=qqQ", status.st_size, status.st_mtime_ns, status.st_ino)


@contextmanager
def opened_path(dirfd: int, name: str) -> Iterator[tuple[int, os.stat_result]]:
    """Open an entry for its path alone, which has no effect whatever it is.

    Raises:
        OSError: It is not there, or a mount.
    """
    fd = openat2(dirfd, name, os.O_PATH | os.O_NOFOLLOW, RESOLVE_WITHIN)
    try:
        yield fd, os.fstat(fd)
    finally:
        os.close(fd)


def hash_file(
    fd: int, algorithms: Iterable[HashAlgorithm], should_stop: ShouldStop
) -> tuple[dict[HashAlgorithm, bytes], int] | None:
    """Hash a file's bytes by several algorithms; None if it changed meanwhile.

    Args:
        fd: The file, opened for its path.
        algorithms: Which.
        should_stop: Asked between pieces.

    Returns:
        The hashes, and the number of bytes.

    Raises:
        Stopped: As asked for.
        OSError: It cannot be read.
    """
    hashers = {each: new_hasher(each) for each in algorithms}
    source = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status, size = os.fstat(source), 0
        # A file that keeps growing shall not keep us for ever.
        while size < status.st_size and (data := os.read(source, _CHUNK)):
            if should_stop():
                raise Stopped
            for hasher in hashers.values():
                hasher.update(data)
            # What is read once by us shall not drive out what others read often.
            os.posix_fadvise(source, size, len(data), os.POSIX_FADV_DONTNEED)
            size += len(data)
        if size != status.st_size or file_stamp(os.fstat(source)) != file_stamp(status):
            return None
    finally:
        os.close(source)
    return {each: hasher.digest() for each, hasher in hashers.items()}, size


def tree_stamp(dirfd: int, name: str, should_stop: ShouldStop) -> bytes:
    """Tell what a directory and all below it look like, in whatever order it is listed.

    Raises:
        Stopped: As asked for.
        OSError: It cannot be listed, lies across a mount, or is nested too deep.
    """
    total, pending = 0, [(os.fsencode(name), 0)]
    while pending:
        path, depth = pending.pop()
        if should_stop():
            raise Stopped
        if depth > DEFAULT_LIMITS.depth:
            raise OSError(f"`{os.fsdecode(path)}' is nested too deep")
        fd = openat2(dirfd, path, os.O_RDONLY | os.O_DIRECTORY, RESOLVE_WITHIN)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    below = path + b"/" + os.fsencode(entry.name)
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append((below, depth + 1))
                    total = (total + _weight(below, status)) % _WRAP
        finally:
            os.close(fd)
    return total.to_bytes(32)


def _weight(path: bytes, status: os.stat_result) -> int:
    kind = struct.pack("=I", status.st_mode)
    content = b"" if stat.S_ISDIR(status.st_mode) else file_stamp(status)
    return int.from_bytes(sha256(kind + content + path).digest())


def hash_tree(dirfd: int, name: str, should_stop: ShouldStop) -> tuple[bytes, int]:
    """Return the sha256 of a directory's archive form, and the bytes of that.

    Raises:
        Stopped: As asked for.
        FileError: It holds what no archive can, or changes meanwhile.
    """
    hasher, size = new_hasher(HashAlgorithm.SHA256), 0
    for piece in dump(dirfd, name):
        if should_stop():
            raise Stopped
        hasher.update(piece)
        size += len(piece)
    return hasher.digest(), size
