# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a container's root comes from, and how it becomes the root.

The new root is mounted on top of ``/``. Path resolution that starts at ``/`` does not
see it, because a process's root is the directory beneath; so sources stay reachable by
name, the new root by its descriptor, and no mount point on disk is needed.

Entry points: `detach_from_host`, `open_root`, `place_root`, then `enter_root` and
`leave_host`; or, where there is no host to leave, `leave_everything` and `stand_on`.
"""

import os

from builder.spawner.filesystems import mount_file_system
from builder.spawner.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    OPEN_TREE_CLONE,
    mount_attributes,
    mount_setattr,
    move_mount,
    open_tree,
    pivot_root,
    umount2,
)

_PLAIN = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
PROC_FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC
MACHINE_ENTRIES = (
    b"acpi",
    b"asound",
    b"bus",
    b"driver",
    b"fs",
    b"irq",
    b"latency_stats",
    b"mtrr",
    b"scsi",
    b"sys",
    b"sysrq-trigger",
)
"""What proc has, as far as the machine has it, that acts on more than processes."""
_PRIVATE = mount_attributes(0, MS_PRIVATE)
_RESTRICTED = mount_attributes(_PLAIN)
_SEALED = _PLAIN | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_RDONLY


def detach_from_host() -> None:
    """Keep mounts of this namespace from showing in the host's, and the other way round."""
    mount_setattr(AT_FDCWD, b"/", AT_RECURSIVE, _PRIVATE, len(_PRIVATE))


def open_root(path: bytes | None) -> int:
    """Give the mount of a new root, attached nowhere.

    Args:
        path: A directory of the host, or None for an empty tmpfs.
    """
    if path is None:
        return mount_file_system(b"tmpfs", ((b"mode", b"0755"),), _PLAIN)
    # In a user namespace only whole trees can be copied, so that nothing hidden below
    # a mount comes to light.
    root = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | os.O_CLOEXEC | AT_RECURSIVE)
    mount_setattr(root, b"", AT_EMPTY_PATH | AT_RECURSIVE, _PRIVATE, len(_PRIVATE))
    mount_setattr(root, b"", AT_EMPTY_PATH, _RESTRICTED, len(_RESTRICTED))
    return root


def place_root(root: int) -> None:
    """Attach the mount of a new root."""
    move_mount(root, b"", AT_FDCWD, b"/", MOVE_MOUNT_F_EMPTY_PATH)


def stand_on(root: int) -> None:
    """Make a directory the root of this process alone."""
    os.fchdir(root)
    os.chroot(".")


def enter_root(root: int) -> None:
    """Make it the root of this process and its mount namespace, with the host's on top of it.

    As before, only paths that start elsewhere see what is on top.
    """
    os.fchdir(root)
    pivot_root(b".", b".")


def leave_host() -> None:
    """Let go of the host's mounts.

    In a user namespace, proc must be mounted before: the kernel allows it only where another
    proc can be seen in full.
    """
    umount2(b".", MNT_DETACH)
    os.chdir("/")


def leave_everything() -> None:
    """Let go of all that is mounted in this namespace, for an empty directory."""
    detach_from_host()
    empty = mount_file_system(b"tmpfs", (), _SEALED)
    try:
        place_root(empty)
        enter_root(empty)
        leave_host()
    finally:
        os.close(empty)
