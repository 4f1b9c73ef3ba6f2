# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts that are attached nowhere yet: copies of what is mounted, and new file systems.

Entry points: `mount_tree`, `private`, `mount_file_system`.
"""

import os
import sys
from collections.abc import Callable, Iterable

from builder.spawner.syscalls import (
    AT_FDCWD,
    AT_RECURSIVE,
    AT_SYMLINK_NOFOLLOW,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MS_PRIVATE,
    OPEN_TREE_CLONE,
    fsconfig,
    fsmount,
    fsopen,
    open_tree,
)
from locker.channel import close_all

_PRIVATE = MS_PRIVATE.to_bytes(8, sys.byteorder)
CLONE_TREE = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW
"""How to copy a mount with all below it."""


def mount_tree(source: bytes) -> int:
    """Give a mount of its own for a file or directory and all that is mounted below it.

    The mount is attached nowhere and goes away with the descriptor. A symbolic link as
    the last component is not followed. Like what it is a copy of, it may share what is
    mounted on it with others; see `private`.
    """
    return open_tree(AT_FDCWD, source, CLONE_TREE)


def private(attributes: bytes) -> bytes:
    """Add to a ``struct mount_attr`` that nothing propagates to the mount or from it."""
    return attributes[:16] + _PRIVATE + attributes[24:]


def open_all(opener: Callable[[bytes], int], paths: Iterable[bytes]) -> tuple[int, ...]:
    """Open all or none.

    Raises:
        OSError: One cannot be opened.
    """
    fds: list[int] = []
    try:
        for path in paths:
            fds.append(opener(path))  # noqa: PERF401 - those opened before must be closed
    except OSError:
        close_all(fds)
        raise
    return tuple(fds)


def mount_file_system(
    kind: bytes,
    options: tuple[tuple[bytes, bytes], ...],
    attributes: int,
    flags: tuple[bytes, ...] = (),
) -> int:
    """Give a mount, attached nowhere, of a new file system.

    Args:
        kind: Its type.
        options: Those that have a value.
        attributes: ``MOUNT_ATTR_*``.
        flags: Options that have none.
    """
    context = fsopen(kind, FSOPEN_CLOEXEC)
    try:
        for flag in flags:
            fsconfig(context, FSCONFIG_SET_FLAG, flag, None, 0)
        for name, value in options:
            fsconfig(context, FSCONFIG_SET_STRING, name, value, 0)
        fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0)
        return fsmount(context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)
