# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying an output to where its builder cannot reach it.

A builder with network access may have passed a descriptor of its output to
somebody who outlives it. Files of a fresh copy are inodes that nobody has
open, so what is hashed afterwards is what stays (CVE-2024-27297).
"""

import errno
import os
import stat
from collections.abc import Callable

from store.descent import Descent, Level
from store.errors import FileError
from store.files import open_with_rights
from store.metadata import unsupported_type

Check = Callable[[os.stat_result, str], object]

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""How the file of a copy is made: only where nothing was, and through no link."""

_STEP = 1 << 30
_BUFFER = 1 << 20
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def copy_tree(dirfd: int, name: str, to_fd: int, to_name: str, path: str, check: Check) -> None:
    """Copy an entry of a directory and all below it; modes keep the owner's bits, times nothing.

    Args:
        dirfd: The directory it is in.
        name: Its name there.
        to_fd: The directory to copy it to, which only we can reach.
        to_name: The copy's name, which nothing has.
        path: What to call it in messages.
        check: Called with the status and path of each thing before it is copied;
            raises what is wrong with it.

    Raises:
        FileError: Something is of a type that no item may have, or lies too deep.
        OSError: Something cannot be read or written.
    """
    with Descent() as descent:
        _copy(dirfd, name, to_fd, to_name, path, check, descent)
        for level, entry in descent:
            _copy(level.source, entry, level.target, entry, level.below(entry), check, descent)


def _copy(
    dirfd: int,
    name: str,
    to_fd: int,
    to_name: str,
    path: str,
    check: Check,
    descent: Descent,
) -> None:
    status = os.lstat(name, dir_fd=dirfd)
    if stat.S_ISDIR(status.st_mode):
        descent.check_depth(path)
        level = _copy_directory(dirfd, name, to_fd, to_name, path, check)
        descent.enter(level)
        level.names.extend(os.listdir(level.source))
    elif stat.S_ISREG(status.st_mode):
        _copy_file(dirfd, name, to_fd, to_name, path, check)
    elif stat.S_ISLNK(status.st_mode):
        check(status, path)
        os.symlink(os.readlink(name, dir_fd=dirfd), to_name, dir_fd=to_fd)
    else:
        raise unsupported_type(path)


def _copy_directory(
    dirfd: int, name: str, to_fd: int, to_name: str, path: str, check: Check
) -> Level:
    source = open_with_rights(dirfd, name)
    try:
        check(os.fstat(source), path)
        os.mkdir(to_name, 0o700, dir_fd=to_fd)
        target = os.open(
            to_name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=to_fd
        )
    except BaseException:
        os.close(source)
        raise
    return Level(source, target, path, [])


def _copy_file(dirfd: int, name: str, to_fd: int, to_name: str, path: str, check: Check) -> None:
    source = os.open(name, _OPEN, dir_fd=dirfd)
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"`{path}' was replaced while it was copied")
        check(status, path)
        target = os.open(to_name, CREATE, 0o600 | status.st_mode & stat.S_IXUSR, dir_fd=to_fd)
        try:
            copy_content(source, target, status.st_size)
        finally:
            os.close(target)
    finally:
        os.close(source)


def copy_content(source: int, target: int, size: int) -> None:
    """Copy so many bytes, or up to the end; in the kernel where it can, or even by sharing."""
    try:
        while size and (count := os.copy_file_range(source, target, min(size, _STEP))):
            size -= count
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    # Some file systems tell the end where they cannot copy.
    while size and (data := os.read(source, min(size, _BUFFER))):
        size -= len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
