# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole-file locks that the C++ daemon's POSIX locks respect.

Open-file-description locks conflict with POSIX ones, but belong to the open
file rather than to the process: closing another descriptor of the same file
does not drop them. Nothing here waits, except `wait`, which is for threads;
on the event loop a lock that is taken is waited for through a `LockHolder`.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from typing import Protocol


class LockMode(IntEnum):
    """Whether others may hold the lock as well; the values are fcntl's."""

    SHARED = fcntl.F_RDLCK
    EXCLUSIVE = fcntl.F_WRLCK


class LockHolder(Protocol):
    """Who waits for locks in our stead; the client of the locker process is one."""

    def hold(
        self, files: Sequence[int], *, shared: bool = False
    ) -> AbstractAsyncContextManager[object]:
        """Hold locks on open files, waiting for them in the order given."""
        ...


def _whole_file(kind: int) -> bytes:
    # struct flock of 64-bit Linux: type, whence, start, length (0: to the end), pid (0 for OFD).
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


_GET_LOCK = 36  # F_OFD_GETLK of <fcntl.h>
_UNLOCK = _whole_file(fcntl.F_UNLCK)
_REQUESTS = {mode: _whole_file(mode) for mode in LockMode}


def try_lock(fd: int, mode: LockMode) -> bool:
    """Take, upgrade or downgrade the lock of `fd`; return whether that worked at once."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _REQUESTS[mode])
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def is_locked(fd: int) -> bool:
    """Tell whether somebody else has locked a file in any way; works for directories, too.

    A lock for writing needs a file that is open for writing, which directories cannot be and
    running programs must not be; the question of who is in its way does not.
    """
    answer = fcntl.fcntl(fd, _GET_LOCK, _REQUESTS[LockMode.EXCLUSIVE])
    (kind,) = struct.unpack_from("h", answer)
    return bool(kind != fcntl.F_UNLCK)


def wait(fd: int, mode: LockMode) -> None:
    """Take, upgrade or downgrade the lock of `fd`, however long that takes."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _REQUESTS[mode])


def unlock(fd: int) -> None:
    """Give the lock of `fd` back."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _UNLOCK)


def open_lock_file(path: str) -> int:
    """Open a lock file for reading and writing, made with mode 0600 where it is absent."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
