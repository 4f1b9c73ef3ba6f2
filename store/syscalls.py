# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux system calls on descriptors that Python's `os` does not offer.

Each raises `OSError` with the path it was given.
"""

import ctypes
import os

_OPENAT2 = 437  # the same on every architecture
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_WITHIN = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
"""How what others may be changing is looked into: through no link, and into no other mount."""

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_TimePair = _TimeSpec * 2


def openat2(dirfd: int, path: str | bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open a path below a directory, under restrictions that the kernel enforces."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    fd: int = _libc.syscall(
        _OPENAT2, dirfd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
    )
    if fd < 0:
        raise _error(path)
    return fd


def chown_opened(fd: int, uid: int, gid: int) -> None:
    """Change the owner of what is open, be it a symbolic link or opened for its path alone."""
    if _libc.fchownat(fd, b"", uid, gid, _AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW) < 0:
        raise _error(f"/proc/self/fd/{fd}")


def set_times_opened(fd: int, accessed: int, modified: int) -> None:
    """Set the times, in seconds, of what is open, be it a symbolic link."""
    times = _TimePair(_TimeSpec(accessed, 0), _TimeSpec(modified, 0))
    if _libc.utimensat(fd, b"", times, _AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW) < 0:
        raise _error(f"/proc/self/fd/{fd}")


def link_opened(fd: int, dirfd: int, name: str | bytes) -> None:
    """Give an open file one more name; needs /proc, but no privilege."""
    os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=dirfd, follow_symlinks=True)


def rename_to_free_name(from_fd: int, old: str | bytes, to_fd: int, new: str | bytes) -> None:
    """Rename, but fail with EEXIST where the new name is taken."""
    _rename(from_fd, old, to_fd, new, _RENAME_NOREPLACE)


def exchange_names(from_fd: int, one: str | bytes, to_fd: int, other: str | bytes) -> None:
    """Let each of two names mean what the other meant; both must exist."""
    _rename(from_fd, one, to_fd, other, _RENAME_EXCHANGE)


def _rename(from_fd: int, old: str | bytes, to_fd: int, new: str | bytes, flag: int) -> None:
    if _libc.renameat2(from_fd, os.fsencode(old), to_fd, os.fsencode(new), flag) < 0:
        raise _error(new)


def _error(path: str | bytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
