# SPDX-License-Identifier: GPL-3.0-or-later
"""Where stores lie and whom builds run as, unless the command line says so."""

import grp
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from builder.spawner.syscalls import CLONE_NEWNS, MNT_DETACH, MS_PRIVATE, mount, umount2, unshare

GROUPS = ("guixbuild", "nixbld")

_MS_REC = 1 << 14


@contextmanager
def private_memory() -> Iterator[str]:
    """Mount a file system in memory that only this process and its children see; give its path.

    What a disk and its file system take is not what is compared: a file's creation or deletion
    takes from microseconds to milliseconds there, depending on what happened in the minutes
    before. Neither /dev/shm nor /tmp would do: containers have their own, in which places for a
    store would have to be made.
    """
    directory = tempfile.mkdtemp(prefix="bench-memory-", dir="/var/tmp")
    unshare(CLONE_NEWNS)
    mount(None, b"/", None, _MS_REC | MS_PRIVATE, None)
    mount(b"tmpfs", os.fsencode(directory), b"tmpfs", 0, b"mode=0755")
    try:
        yield directory
    finally:
        umount2(os.fsencode(directory), MNT_DETACH)
        os.rmdir(directory)


def build_users_group() -> str:
    """Find a group of build users on this machine; empty if there is none, or we are not root."""
    if os.geteuid() != 0:
        return ""
    found = {group.gr_name for group in grp.getgrall() if group.gr_mem}
    return next((name for name in GROUPS if name in found), "")
