# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding out which process has locked a file, as far as the kernel tells.

For a lock of a process (POSIX) the kernel names it. A lock of an open file description
belongs to whoever has that open, which is found through ``/proc``: among the processes
that have the file open, the one whose descriptor has the lock. What we may not look into
remains unknown. Entry point: `find_holder`; slow, for a thread.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_FLOCK = "hhqqi0q"
_PID = 4
_ASK = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_OF_FILE_DESCRIPTION = -1
_HELPER = "locker"


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A process that has a lock.

    Attributes:
        pid: Its number.
        command: Its name.
        since: When it can have taken the lock at the earliest, in seconds since 1970.
    """

    pid: int
    command: str
    since: float


def find_holder(path: str) -> LockHolder | None:
    """Return which process has locked a file; None where none has, or it cannot be seen."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        pid = _locked_by(fd)
        if pid == _OF_FILE_DESCRIPTION:
            pid = _described_by(status.st_dev, status.st_ino)
    finally:
        os.close(fd)
    return _describe(pid, status.st_mtime) if pid else None


def _locked_by(fd: int) -> int:
    """Ask the kernel whose lock is in the way of ours: a pid, -1, or 0 for nobody's."""
    try:
        # Asking for a description's lock sees those of our own process as well.
        found = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _ASK))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return 0
        raise
    return 0 if found[0] == fcntl.F_UNLCK else int(found[_PID])


def _described_by(device: int, inode: int) -> int:
    """Return the process with the description that has the lock; 0 if it cannot be seen."""
    for pid, name in _processes_with(device, inode):
        with suppress(OSError), open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as info:
            if any(line.startswith("lock:") for line in info):
                return pid
    return 0


def _processes_with(device: int, inode: int) -> Iterator[tuple[int, str]]:
    """Yield the processes, and their descriptors, that have a file open."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        names: list[str] = []
        with suppress(OSError):
            names = os.listdir(f"/proc/{process}/fd")
        for name in names:
            with suppress(OSError):
                status = os.stat(f"/proc/{process}/fd/{name}")
                if (status.st_dev, status.st_ino) == (device, inode):
                    yield int(process), name


def _describe(pid: int, locked: float) -> LockHolder:
    command = _command(pid)
    if command == _HELPER:
        # What matters to people is the daemon whose helper it is.
        pid = _parent(pid) or pid
        command = _command(pid)
    return LockHolder(pid, command, locked)


def _command(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
        return comm.read().strip()
    return ""


def _parent(pid: int) -> int:
    with suppress(OSError, ValueError), open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        # The name, in parentheses, may hold anything.
        return int(stat.read().rpartition(")")[2].split()[1])
    return 0
