# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a container's root comes from, and how it becomes the root.

The new root is mounted on top of ``/``. Path resolution that starts at ``/`` does not
see it, because a process's root is the directory beneath; so sources stay reachable by
name, the new root by its descriptor, and no mount point on disk is needed.

Entry points: `detach_from_host`, `place_root`, then `enter_root` and
`leave_host`.
"""

import os

from builder.spawner.filesystems import mount_file_system
from builder.spawner.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
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


def detach_from_host() -> None:
    """Keep mounts of this namespace from showing in the host's, and the other way round."""
    mount_setattr(AT_FDCWD, b"/", AT_RECURSIVE, _PRIVATE, len(_PRIVATE))


def place_root(path: bytes | None) -> int:
    """Mount the new root; give its descriptor.

    Args:
        path: A directory of the host, or None for an empty tmpfs.
    """
    if path is None:
        root = mount_file_system(b"tmpfs", ((b"mode", b"0755"),), _PLAIN)
    else:
        # In a user namespace only whole trees can be copied, so that nothing hidden below
        # a mount comes to light.
        flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_RECURSIVE
        root = open_tree(AT_FDCWD, path, flags)
        mount_setattr(root, b"", AT_EMPTY_PATH, _RESTRICTED, len(_RESTRICTED))
    move_mount(root, b"", AT_FDCWD, b"/", MOVE_MOUNT_F_EMPTY_PATH)
    return root


def enter_root(root: int, mode: int) -> None:
    """Make it the root of this process and its mount namespace, with the host's on top of it.

    As before, only paths that start elsewhere see what is on top.
    """
    os.fchdir(root)
    os.chmod(".", mode)
    pivot_root(b".", b".")


def leave_host() -> None:
    """Let go of the host's mounts.

    In a user namespace, proc must be mounted before: the kernel allows it only where another
    proc can be seen in full.
    """
    umount2(b".", MNT_DETACH)
    os.chdir("/")
