# SPDX-License-Identifier: GPL-3.0-or-later
"""What a helper gives up before its main loop.

A helper that works on descriptors alone needs no path, no capability and no other process.
Each function takes something away for good; where the kernel lacks the means, or a sandbox
around us denies it, the helper goes on with what it could give up.
"""

import contextlib
import ctypes
import errno
import os
import resource

import prctl

# <linux/landlock.h>; the system call numbers are the same on every architecture but alpha.
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_RESTRICT_SELF = 446
_CREATE_RULESET_VERSION = 1
_UNAVAILABLE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # version of the interface: bits it knows
_NETWORK_SINCE, _NETWORK_RIGHTS = 4, 0b11  # TCP: bind, connect
_SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract sockets and signals to processes outside


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as the system permits; give the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
            most = max(hard, int(file.read()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        # Without CAP_SYS_RESOURCE the hard limit is as far as we can go.
        most = hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def drop_privileges() -> None:
    """Give up all capabilities, and gaining any by execve, and being dumped or traced."""
    prctl.set_no_new_privs(True)
    prctl.set_dumpable(False)
    # Without CAP_SETPCAP the bounding set stays; no_new_privs makes it moot.
    with contextlib.suppress(PermissionError):
        prctl.capbset.limit()
    prctl.cap_inheritable.limit()
    prctl.cap_effective.limit()
    prctl.cap_permitted.limit()


def forbid_paths() -> bool:
    """Forbid every access to files by path, TCP, and signals to others; say whether it worked.

    Descriptors that are open already, or arrive later, keep their rights.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        return False
    attributes = _RulesetAttributes(
        (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1,
        _NETWORK_RIGHTS if version >= _NETWORK_SINCE else 0,
        _SCOPES if version >= _SCOPES_SINCE else 0,
    )
    size = ctypes.sizeof(attributes)
    ruleset = libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    if ruleset < 0:
        return _landlock_failed()
    try:
        if libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) < 0:
            return _landlock_failed()
    finally:
        os.close(ruleset)
    return True


def _landlock_failed() -> bool:
    number = ctypes.get_errno()
    if number in _UNAVAILABLE:
        return False
    raise OSError(number, f"landlock: {os.strerror(number)}")
