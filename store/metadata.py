# SPDX-License-Identifier: GPL-3.0-or-later
"""Canonical metadata: what a builder left becomes what every store item is like.

Mode 0444 or 0555, time of modification 1, owned by the daemon, no access-control
lists, no attributes of a user's. The tree is gone through by descriptors, from
the top, so that directories that shut their owner out are opened up in time.

A builder could have linked somebody else's file into its output, so a file must
belong to the build user. One that was given to the daemon a moment ago, under
another name in outputs of the same build, is as it should be already.
"""

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from store.errors import FileError
from store.nar.reader import DEFAULT_LIMITS
from store.syscalls import chown_opened, set_times_opened

MTIME: Final = 1
"""The time of modification of everything in the store, in seconds since the epoch."""

_OPEN_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SUPPORTED: Final = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
_FOREIGN_ATTRIBUTES: Final = ("user.", "system.posix_acl_")
_NO_ATTRIBUTES: Final = (errno.ENOTSUP, errno.ENODATA, errno.EPERM)

Inode = tuple[int, int]


@dataclass(slots=True)
class _Level:
    """An open directory, its path for messages, and the entries still to come."""

    fd: int
    path: str
    names: list[str]


class Canonicaliser:
    """Makes trees canonical.

    Args:
        owner: The user that everything must belong to; None for anybody.

    One object serves all outputs of a build, which may share inodes.
    """

    def __init__(self, owner: int | None) -> None:
        self._owner = owner
        self._ours = (os.geteuid(), os.getegid())
        self._done: set[Inode] = set()
        self._levels: list[_Level] = []

    def canonicalise(self, dirfd: int, name: str, path: str) -> None:
        """Make an entry of a directory, and all below it, canonical.

        Args:
            dirfd: The directory; nobody else may be able to change what is in it.
            name: The entry.
            path: What messages call it.

        Raises:
            FileError: A file has another owner (reason ``ownership``), a type that the
                store cannot hold (``unsupported-type``), or lies too deep (``depth``).
            OSError: Metadata cannot be changed.
        """
        try:
            self._enter(dirfd, name, path)
            while self._levels:
                level = self._levels[-1]
                if level.names:
                    entry = level.names.pop()
                    self._enter(level.fd, entry, f"{level.path}/{entry}")
                else:
                    os.close(self._levels.pop().fd)
        finally:
            while self._levels:
                os.close(self._levels.pop().fd)

    def _enter(self, dirfd: int, name: str, path: str) -> None:
        fd = os.open(name, _OPEN_PATH, dir_fd=dirfd)
        try:
            status = os.fstat(fd)
            if stat.S_IFMT(status.st_mode) not in _SUPPORTED:
                raise FileError(f"file `{path}' has an unsupported type", reason="unsupported-type")
            if self._is_done(status, path):
                return
            self._normalise(fd, status)
        finally:
            os.close(fd)
        if stat.S_ISDIR(status.st_mode):
            self._descend(dirfd, name, path)

    def _is_done(self, status: os.stat_result, path: str) -> bool:
        inode = (status.st_dev, status.st_ino)
        if inode in self._done:
            return True
        if self._owner is not None and status.st_uid != self._owner:
            raise FileError(f"invalid ownership on file `{path}'", reason="ownership")
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            self._done.add(inode)
        return False

    def _normalise(self, fd: int, status: os.stat_result) -> None:
        # In this order: a change of owner clears bits of the mode.
        if (status.st_uid, status.st_gid) != self._ours:
            chown_opened(fd, *self._ours)
        if not stat.S_ISLNK(status.st_mode):
            _remove_attributes(fd)
            mode = _canonical_mode(status.st_mode)
            if stat.S_IMODE(status.st_mode) != mode or (status.st_uid, status.st_gid) != self._ours:
                os.chmod(f"/proc/self/fd/{fd}", mode)
        if status.st_mtime_ns != MTIME * 1_000_000_000:
            set_times_opened(fd, MTIME, MTIME)

    def _descend(self, dirfd: int, name: str, path: str) -> None:
        if len(self._levels) == DEFAULT_LIMITS.depth:
            raise FileError(
                f"`{path}' lies more than {DEFAULT_LIMITS.depth} directories deep", reason="depth"
            )
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=dirfd)
        self._levels.append(_Level(fd, path, []))
        self._levels[-1].names = os.listdir(fd)


def _canonical_mode(mode: int) -> int:
    return 0o555 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o444


def _remove_attributes(fd: int) -> None:
    # The name works on what was opened for its path alone, as a descriptor does not.
    name = f"/proc/self/fd/{fd}"
    try:
        attributes = os.listxattr(name)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return
        raise
    for attribute in attributes:
        if attribute.startswith(_FOREIGN_ATTRIBUTES):
            with suppress(FileNotFoundError):
                os.removexattr(name, attribute)
