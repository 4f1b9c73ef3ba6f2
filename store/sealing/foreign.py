# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying content that is not ours to change: from another item, or from a medium.

Nothing of the source is altered, and nothing of it is believed: its files may grow,
be swapped or turn into something else while they are copied, and its sizes may be
lies. So a copy never takes more than it was said to, leads nowhere through links or
mounts, opens files only once they are known to be files, and says nothing of what
the content is: whoever copies hashes the copy. Entry point: `copy_foreign`.
"""

import os
import stat

from store.descent import Descent, Level
from store.errors import FileError
from store.metadata import unsupported_type
from store.sealing.copying import CREATE, copy_content
from store.syscalls import (
    RESOLVE_WITHIN,
    openat2,
)

_PATH = os.O_PATH | os.O_NOFOLLOW
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What an entry takes in an archive beside its contents: more entries than fit are no copy.
_ENTRY = 64


def copy_foreign(
    dirfd: int, name: str, to_fd: int, to_name: str, path: str, *, limit: int, plain: bool
) -> None:
    """Copy an entry of a directory, and all below it unless it must be a plain file.

    Args:
        dirfd: The directory it is in.
        name: Its name there.
        to_fd: The directory to copy it to, which only we can reach.
        to_name: The copy's name, which nothing has.
        path: What to call it in messages.
        limit: The bytes of the archive form of what is expected, at least; no more is copied.
        plain: Whether it must be a file, of which only the bytes matter: the copy is
            not executable.

    Raises:
        FileError: It is something else, is larger, or changed meanwhile.
        OSError: Something cannot be read or written.
    """
    with Descent() as descent:
        copy = _Copy(descent, limit, plain=plain)
        copy.entry(dirfd, name, to_fd, to_name, path)
        for level, entry in descent:
            copy.entry(level.source, entry, level.target, entry, level.below(entry))


class _Copy:
    def __init__(self, descent: Descent, limit: int, *, plain: bool) -> None:
        self._descent = descent
        self._left = limit
        self._plain = plain

    def entry(self, dirfd: int, name: str, to_fd: int, to_name: str, path: str) -> None:
        fd = openat2(dirfd, name, _PATH, RESOLVE_WITHIN)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                self._file(fd, to_fd, to_name, path)
            elif self._plain:
                raise FileError(f"`{path}' is not a regular file", reason="not-a-file")
            elif stat.S_ISLNK(status.st_mode):
                self._spend(status.st_size, path)
                os.symlink(os.readlink(b"", dir_fd=fd), to_name, dir_fd=to_fd)
            elif stat.S_ISDIR(status.st_mode):
                self._directory(fd, to_fd, to_name, path)
            else:
                raise unsupported_type(path)
        finally:
            os.close(fd)

    def _spend(self, size: int, path: str) -> None:
        self._left -= size + (0 if self._plain else _ENTRY)
        if self._left < 0:
            raise FileError(f"`{path}' is larger than it was", reason="too-large")

    def _directory(self, fd: int, to_fd: int, to_name: str, path: str) -> None:
        self._descent.check_depth(path)
        source = os.open(".", _DIRECTORY, dir_fd=fd)
        try:
            names = self._names(source, path)
            os.mkdir(to_name, 0o700, dir_fd=to_fd)
            target = os.open(to_name, _DIRECTORY, dir_fd=to_fd)
        except BaseException:
            os.close(source)
            raise
        self._descent.enter(Level(source, target, path, names))

    def _names(self, fd: int, path: str) -> list[str]:
        names = []
        self._spend(0, path)
        with os.scandir(fd) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) * _ENTRY > self._left:
                    raise FileError(f"`{path}' has more entries than it had", reason="too-large")
        return names

    def _file(self, fd: int, to_fd: int, to_name: str, path: str) -> None:
        # Now it is certain that opening has no effect, as it might with a device.
        source = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(source)
            self._spend(status.st_size, path)
            executable = 0 if self._plain else status.st_mode & stat.S_IXUSR
            target = os.open(to_name, CREATE, 0o600 | executable, dir_fd=to_fd)
            try:
                copy_content(source, target, status.st_size)
            finally:
                os.close(target)
        finally:
            os.close(source)
