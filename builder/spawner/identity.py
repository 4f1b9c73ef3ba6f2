# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a builder is: ids of the host, or those of a user namespace, and no capabilities.

Entry points: `map_ids` and `lock_mounts` for user namespaces; `drop_capabilities`.
"""

import os
import struct

from builder.spawner.syscalls import CLONE_NEWNS, CLONE_NEWUSER, capset, prctl, unshare

_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
_NO_CAPABILITIES = bytes(24)


def last_capability() -> int:
    """Give the highest number of a capability that the kernel knows."""
    fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def drop_bounding_set(last: int) -> None:
    """Keep what this process executes from ever gaining a capability; it keeps its own.

    Raises:
        PermissionError: It has no CAP_SETPCAP.
    """
    for number in range(last + 1):
        prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def clear_ambient() -> None:
    """Drop ambient capabilities, which a service manager may have given the daemon."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def write_own(name: bytes, text: bytes, proc: int) -> None:
    """Write a file of ``/proc/self``; `proc` is a descriptor of ``/proc``."""
    fd = os.open(b"self/" + name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def map_ids(uid_map: bytes, gid_map: bytes, proc: int) -> None:
    """Define the ids of the user namespace that this process has just entered.

    Args:
        uid_map: The text for ``uid_map``: one user, the one this process was.
        gid_map: Likewise.
        proc: A descriptor of ``/proc``.
    """
    write_own(b"uid_map", uid_map, proc)
    write_own(b"setgroups", b"deny", proc)
    write_own(b"gid_map", gid_map, proc)


def lock_mounts(proc: int) -> None:
    """Enter a second user namespace and mount namespace, in which mounts cannot be undone.

    Mounts that a mount namespace takes over from one of another user namespace are locked
    together; see mount_namespaces(7).
    """
    uid, gid = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    map_ids(b"%d %d 1\n" % (uid, uid), b"%d %d 1\n" % (gid, gid), proc)


def drop_capabilities() -> None:
    """Give up all capabilities, those that executed programs could inherit too."""
    capset(_CAPABILITY_HEADER, _NO_CAPABILITIES)
