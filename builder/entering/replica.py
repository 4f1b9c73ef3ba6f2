# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying a kept build directory, whose owner may be changing it at this moment.

A shell works on a copy: had it the directory itself, its owner could keep descriptors of it
and bring files of others into it, which would then change hands. Nothing is followed, nor
taken that belongs to anybody else; the copy is made where only we can reach it. Times and
holes are kept, for `make` and for the disk, and so are hard links within the tree.

Entry point: `replicate`.
"""

import errno
import os
import stat
from collections.abc import Callable

from store.descent import Descent, Level
from store.errors import FileError
from store.sealing.copying import CREATE, copy_content
from store.syscalls import (
    RESOLVE_WITHIN,
    openat2,
)

_PATH = os.O_PATH | os.O_NOFOLLOW
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PERMISSIONS = 0o1777  # no set-id bits, which builders cannot make either


def replicate(
    source: int,
    target: int,
    owners: frozenset[int],
    recipient: tuple[int, int] | None,
    check: Callable[[], None],
) -> None:
    """Copy what is in a directory.

    Args:
        source: A descriptor of the directory; for its path alone will do.
        target: A descriptor of an empty one that only we can reach.
        owners: Whose the files may be.
        recipient: Whose the copies become; None for ours.
        check: Called now and then; what it raises ends the copying.

    Raises:
        FileError: Something belongs to somebody else, or lies too deep.
        OSError: Something cannot be read or written.
    """
    copy = _Copy(target, owners, recipient, check)
    with copy.descent:
        copy.enter(source, os.fstat(source), os.dup(target), "")
        for level, name in copy.descent:
            copy.entry(level.source, name, level.target, level.below(name))


class _Copy:
    def __init__(
        self,
        root: int,
        owners: frozenset[int],
        recipient: tuple[int, int] | None,
        check: Callable[[], None],
    ) -> None:
        self._root = root
        self._owners = owners
        self._recipient = recipient
        self._check = check
        self._links: dict[tuple[int, int], str] = {}
        # Of the directories that are being copied, as they were before they were opened.
        self._statuses: list[os.stat_result] = []
        self.descent = Descent(self._leave)

    def _leave(self, level: Level) -> None:
        status = self._statuses.pop()
        if level.path:  # the outermost directory has its owner and mode already
            self._finish(level.target, status)

    def enter(self, fd: int, status: os.stat_result, target: int, path: str) -> None:
        """Begin with a directory; `target` is ours from here on."""
        try:
            source = _open(fd, status, _DIRECTORY)
        except BaseException:
            os.close(target)
            raise
        level = Level(source, target, path, [])
        self.descent.enter(level)
        self._statuses.append(status)
        level.names.extend(os.listdir(source))

    def entry(self, dirfd: int, name: str, to_fd: int, path: str) -> None:
        self._check()
        fd = openat2(dirfd, name, _PATH, RESOLVE_WITHIN)
        try:
            status = os.fstat(fd)
            if status.st_uid not in self._owners:
                raise FileError(f"`{path}' in the kept build directory is user {status.st_uid}'s")
            if stat.S_ISDIR(status.st_mode):
                self.descent.check_depth(path)
                os.mkdir(name, 0o700, dir_fd=to_fd)
                self.enter(fd, status, os.open(name, _DIRECTORY, dir_fd=to_fd), path)
            elif stat.S_ISREG(status.st_mode):
                self._file(fd, status, to_fd, name, path)
            elif stat.S_ISLNK(status.st_mode):
                self._link(fd, status, to_fd, name)
            elif stat.S_ISFIFO(status.st_mode):
                os.mkfifo(name, stat.S_IMODE(status.st_mode) & 0o777, dir_fd=to_fd)
                self._give(name, to_fd)
            # Sockets are left out: whoever listened is dead.
        finally:
            os.close(fd)

    def _link(self, fd: int, status: os.stat_result, to_fd: int, name: str) -> None:
        os.symlink(os.readlink(b"", dir_fd=fd), name, dir_fd=to_fd)
        self._give(name, to_fd)
        times = status.st_atime_ns, status.st_mtime_ns
        os.utime(name, ns=times, dir_fd=to_fd, follow_symlinks=False)

    def _give(self, name: str, dirfd: int) -> None:
        if self._recipient is not None:
            os.chown(name, *self._recipient, dir_fd=dirfd, follow_symlinks=False)

    def _file(self, fd: int, status: os.stat_result, to_fd: int, name: str, path: str) -> None:
        key = status.st_dev, status.st_ino
        if status.st_nlink > 1 and key in self._links:
            os.link(self._links[key], name, src_dir_fd=self._root, dst_dir_fd=to_fd)
            return
        target = os.open(name, CREATE, 0o600, dir_fd=to_fd)
        try:
            source = _open(fd, status, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                self._contents(source, target, status.st_size)
            finally:
                os.close(source)
            self._finish(target, status)
        finally:
            os.close(target)
        if status.st_nlink > 1:
            self._links[key] = path

    def _contents(self, source: int, target: int, size: int) -> None:
        """Copy a file's data, and leave its holes out, which may be larger than the disk."""
        at = 0
        while at < size:
            self._check()
            try:
                data = os.lseek(source, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            at = min(os.lseek(source, data, os.SEEK_HOLE), size)
            if data < at:
                os.lseek(source, data, os.SEEK_SET)
                os.lseek(target, data, os.SEEK_SET)
                copy_content(source, target, at - data)
        os.ftruncate(target, size)

    def _finish(self, target: int, status: os.stat_result) -> None:
        if self._recipient is not None:
            os.fchown(target, *self._recipient)
        os.fchmod(target, status.st_mode & _PERMISSIONS)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _open(fd: int, status: os.stat_result, flags: int) -> int:
    """Open what was opened for its path alone, and is known to be a file or a directory.

    Tests leave some of which they have taken all rights from themselves; without privileges,
    those that are ours have to be given some.
    """
    name = f"/proc/self/fd/{fd}"
    try:
        return os.open(name, flags)
    except PermissionError:
        os.chmod(name, stat.S_IMODE(status.st_mode) | 0o700)
        return os.open(name, flags)
