# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a builder is in a user namespace, and the giving up of capabilities.

One user and one group, one's own, can be mapped by the process in the new namespace
itself. More groups need capabilities in the namespace above, which only a process there
has: the spawner for the first namespace, a short-lived helper for the one that locks
mounts.

Entry points: `map_ids`, `map_groups`, `lock_mounts`, `join`; `drop_bounding_set`,
`clear_ambient`.
"""

import os
import struct
from contextlib import suppress

from builder.spawner.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    prctl,
    setns,
    unshare,
)

PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
NO_CAPABILITIES = bytes(24)
UPLINK_CAPABILITIES = (8, 10, 12, 21)
"""CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_SYS_ADMIN: what slirp4netns
needs to join a network namespace, to make an interface there, and to confine itself."""
_GO = b"\n"
_NEWGIDMAP = "newgidmap"


def last_capability() -> int:
    """Give the highest number of a capability that the kernel knows."""
    fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def drop_bounding_set(last: int) -> None:
    """Keep what this process executes from ever gaining a capability; it keeps its own.

    Those of `UPLINK_CAPABILITIES` remain; builders drop them by themselves.

    Raises:
        PermissionError: It has no CAP_SETPCAP.
    """
    for number in set(range(last + 1)).difference(UPLINK_CAPABILITIES):
        prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


def clear_ambient() -> None:
    """Drop ambient capabilities, which a service manager may have given the daemon."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def write_own(name: bytes, text: bytes, proc: int) -> None:
    """Write a file of ``/proc/self``; `proc` is a descriptor of ``/proc``."""
    _write(b"self/" + name, text, proc)


def _read_own(name: bytes, proc: int) -> bytes:
    fd = os.open(b"self/" + name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def _write(path: bytes, text: bytes, directory: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def map_ids(uid_map: bytes, gid_map: bytes, proc: int) -> None:
    """Define the ids of the user namespace that this process has just entered.

    Args:
        uid_map: The text for ``uid_map``: one user, the one this process was.
        gid_map: Likewise; empty where another process does it.
        proc: A descriptor of ``/proc``.
    """
    write_own(b"uid_map", uid_map, proc)
    if gid_map:
        write_own(b"setgroups", b"deny", proc)
        write_own(b"gid_map", gid_map, proc)


def map_groups(pid: int, gid_map: bytes, more_gids: bytes, proc: int) -> None:
    """Define the groups of another process's user namespace.

    Without capabilities for that, ``newgidmap`` may have them; if it has not, there is one
    group alone, and only what needs another one fails.

    Raises:
        OSError: Not even one group can be mapped.
    """
    directory = os.open(b"%d" % pid, os.O_PATH | os.O_DIRECTORY, dir_fd=proc)
    try:
        with suppress(PermissionError):
            _write(b"gid_map", gid_map + more_gids, directory)
            return
        if not _run_newgidmap(pid, gid_map + more_gids):
            _write(b"setgroups", b"deny", directory)
            _write(b"gid_map", gid_map, directory)
    finally:
        os.close(directory)


def _run_newgidmap(pid: int, gid_map: bytes) -> bool:
    arguments = [_NEWGIDMAP, str(pid), *gid_map.decode().split()]
    try:
        helper = os.posix_spawnp(_NEWGIDMAP, arguments, os.environ)
    except OSError:
        return False  # it is not installed
    return os.waitpid(helper, 0)[1] == 0


def lock_mounts(uid_map: bytes, gid_map: bytes, proc: int) -> None:
    """Enter a second user namespace and mount namespace, in which mounts cannot be undone.

    Mounts that a mount namespace takes over from one of another user namespace are locked
    together; see mount_namespaces(7). Groups beyond the first keep their numbers.

    Args:
        uid_map: The user of the second namespace, by that of the first.
        gid_map: Likewise for the first group.
        proc: A descriptor of ``/proc``.
    """
    _, *more = [line.split()[0] for line in _read_own(b"gid_map", proc).splitlines()]
    if more:
        _enter_with_helper(gid_map + b"".join(b"%s %s 1\n" % (gid, gid) for gid in more), proc)
        gid_map = b""
    else:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
    map_ids(uid_map, gid_map, proc)


def join(pid: int, proc: int) -> None:
    """Enter the user namespace of a process, and make other namespaces in it.

    Raises:
        OSError: The process is gone, or its namespace is another user's.
    """
    fd = os.open(b"%d/ns/user" % pid, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        setns(fd, CLONE_NEWUSER)
    finally:
        os.close(fd)
    unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS)


def _enter_with_helper(gid_map: bytes, proc: int) -> None:
    """Enter the namespaces while a process that stays behind maps the groups."""
    directory = os.open(b"self", os.O_PATH | os.O_DIRECTORY, dir_fd=proc)
    entered, enter = os.pipe()
    helper = os.fork()
    if helper == 0:
        try:
            os.close(enter)
            if os.read(entered, 1) == _GO:
                _write(b"gid_map", gid_map, directory)
                os._exit(0)
        finally:
            os._exit(1)
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    os.write(enter, _GO)
    os.close(enter)
    os.close(entered)
    os.close(directory)
    if os.waitpid(helper, 0)[1] != 0:
        raise PermissionError("the groups of a user namespace could not be mapped")
