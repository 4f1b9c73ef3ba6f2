# SPDX-License-Identifier: GPL-3.0-or-later
"""Open-file-description locks on whole files: to try, to wait for, to give up waiting, to undo.

These locks conflict with the POSIX locks that other daemons take, but belong to an open file
description instead of a process: closing another descriptor of the file does not drop them,
and two of them in one process conflict as they should (fcntl(2)).

Entry points: `try_lock`, `unlock`, `is_stale`, and `LockWait`, a thread that waits.
"""

import ctypes
import errno
import fcntl
import os
import signal
import struct
import threading
from collections.abc import Callable

# struct flock: l_type, l_whence, l_start, l_len, l_pid; length 0 is "to the end", and l_pid
# must be 0 for this kind of lock.
_FLOCK = "hhqqi0q"
_EXCLUSIVE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_SHARED = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
_UNLOCK = struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
_WHENCE_OFFSET = struct.calcsize("h")
_NO_WHENCE = 99

WAKE_SIGNAL = signal.SIGUSR1
"""Interrupts a `LockWait`; the process must have a handler for it, see `install_wake_handler`."""

_libc = ctypes.CDLL(None, use_errno=True)


def try_lock(fd: int, *, shared: bool) -> bool:
    """Lock a file unless others have locked it; say whether it is locked.

    Raises:
        OSError: EBADF, if the descriptor is not open for reading (shared) or writing; ENOLCK.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _SHARED if shared else _EXCLUSIVE)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def unlock(fd: int) -> None:
    """Drop the lock; closing is not enough while duplicates of the descriptor exist."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _UNLOCK)


def is_stale(fd: int) -> bool:
    """Tell whether a lock file, locked now, was deleted by an earlier holder.

    Raises:
        OSError: ESPIPE, if the file cannot be a lock file.
    """
    return os.lseek(fd, 0, os.SEEK_END) != 0


def mark_stale(fd: int) -> None:
    """Tell those who wait for a lock file, which its holder has unlinked, that it is gone.

    Making the file longer works where writing into it, as the C++ daemon does, fails because
    the disk is full. A file that has a name still is left alone: it is somebody's trap, or was
    not unlinked.
    """
    if os.fstat(fd).st_nlink == 0:
        os.ftruncate(fd, 1)


def install_wake_handler() -> None:
    """Let `WAKE_SIGNAL` interrupt system calls, and nothing else; for the main thread."""
    signal.signal(WAKE_SIGNAL, _disregard)


def _disregard(_number: int, _frame: object) -> None:
    """Take the signal; that the system call fails with EINTR is its whole effect."""


class LockWait:
    """A thread that waits until the kernel grants a lock.

    Cancelling has no race. A signal alone could arrive just before the thread enters the
    kernel, and be lost. So `cancel` first spoils the request in memory: if the kernel has not
    read it yet it refuses it (EINVAL), and if it has, the signal that follows interrupts the
    wait (EINTR). Nothing is polled.

    Args:
        fd: The file; while the thread lives, nobody else may close it.
        shared: The kind of lock.
        done: Called in the thread with this object, and 0 or an error number. It must take the
            mutex under which `cancel` is called, and set `ended` under it.
    """

    def __init__(self, fd: int, *, shared: bool, done: Callable[["LockWait", int], None]) -> None:
        self.fd = fd
        self.cancelled = False
        self.ended = False
        self._done = done
        self._flock = ctypes.create_string_buffer(_SHARED if shared else _EXCLUSIVE, len(_SHARED))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start waiting.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        self._thread.start()

    def cancel(self) -> None:
        """Have the wait end soon; `done` is called all the same, maybe with 0.

        The caller holds the mutex, so that a thread which has not `ended` is still there.
        """
        if self.cancelled or self.ended:
            return
        self.cancelled = True
        ctypes.c_short.from_buffer(self._flock, _WHENCE_OFFSET).value = _NO_WHENCE
        assert self._thread.ident is not None
        signal.pthread_kill(self._thread.ident, WAKE_SIGNAL)

    def _run(self) -> None:
        # `fcntl.fcntl` starts again after EINTR in a thread that is not the main one.
        number = errno.EINTR
        while number == errno.EINTR and not self.cancelled:
            failed = _libc.fcntl(self.fd, fcntl.F_OFD_SETLKW, self._flock) < 0
            number = ctypes.get_errno() if failed else 0
        self._done(self, number)
