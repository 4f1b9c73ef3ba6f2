# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a builder is: ids of the host, or those of a user namespace, and no capabilities.

Entry points: `map_ids` and `lock_mounts` for user namespaces, `become` for build users,
`renounce` for all.
"""

import os
import struct

import prctl

from builder.spawner.syscalls import CLONE_NEWNS, CLONE_NEWUSER, capset, unshare
from builder.spawner.syscalls import prctl as raw_prctl

_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
_NO_CAPABILITIES = bytes(24)


def last_capability() -> int:
    """Give the highest number of a capability that the kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def drop_bounding_set(last: int) -> None:
    """Keep what this process executes from ever gaining a capability; it keeps its own.

    Raises:
        PermissionError: It has no CAP_SETPCAP.
    """
    for number in range(last + 1):
        raw_prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def clear_ambient() -> None:
    """Drop ambient capabilities, which a service manager may have given the daemon."""
    raw_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def write_own(name: bytes, text: bytes, process: int) -> None:
    """Write a file of ``/proc/self``, of which `process` is a descriptor."""
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def map_ids(uid_map: bytes, gid_map: bytes, process: int) -> None:
    """Define the ids of the user namespace that this process has just entered.

    Args:
        uid_map: The text for ``uid_map``: one user, the one this process was.
        gid_map: Likewise.
        process: A descriptor of ``/proc/self``.
    """
    write_own(b"uid_map", uid_map, process)
    write_own(b"setgroups", b"deny", process)
    write_own(b"gid_map", gid_map, process)


def lock_mounts(process: int) -> None:
    """Enter a second user namespace and mount namespace, in which mounts cannot be undone.

    Mounts that a mount namespace takes over from one of another user namespace are locked
    together; see mount_namespaces(7).
    """
    uid, gid = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    map_ids(b"%d %d 1\n" % (uid, uid), b"%d %d 1\n" % (gid, gid), process)


def become(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """Become a user of the host, for good.

    Raises:
        OSError: Not permitted, or too many groups.
    """
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def renounce() -> None:
    """Give up all capabilities, and the means to gain any."""
    capset(_CAPABILITY_HEADER, _NO_CAPABILITIES)
    prctl.set_no_new_privs(1)
