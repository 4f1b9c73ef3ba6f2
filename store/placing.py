# SPDX-License-Identifier: GPL-3.0-or-later
"""The last step of every new item: from a private directory into the store, in one rename.

The caller holds the item's lock, and knows that it is not valid: what has its
name is left over from a crash. Entry points: `place`, `place_path`.
"""

import os
import stat

from store.files import delete_tree
from store.syscalls import rename_to_free_name

_AT_FDCWD = -100
_SECOND = 1_000_000_000


def place(from_fd: int, name: str, store_fd: int, item: str) -> None:
    """Move a finished tree into the store.

    Args:
        from_fd: The directory it is in, on the store's file system.
        name: Its name there.
        store_fd: The store's directory.
        item: Its name in the store; a left-over of that name is deleted.

    Raises:
        OSError: It cannot be moved; it is where it was, canonical or not.
    """
    try:
        _move(from_fd, name, store_fd, item)
    except FileExistsError:
        delete_tree(store_fd, item)
        _move(from_fd, name, store_fd, item)


def place_path(path: str, item: str) -> None:
    """Do what `place` does, where all directories above are ours alone.

    Args:
        path: The finished tree.
        item: The path that it gets in the store.

    Raises:
        OSError: As `place`.
    """
    try:
        _move(_AT_FDCWD, path, _AT_FDCWD, item)
    except FileExistsError:
        store, _, name = item.rpartition("/")
        store_fd = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            place(_AT_FDCWD, path, store_fd, name)
        finally:
            os.close(store_fd)


def _move(from_fd: int, name: str, store_fd: int, item: str) -> None:
    try:
        rename_to_free_name(from_fd, name, store_fd, item)
    except PermissionError:
        # Moving a directory rewrites its "..", for which its owner needs to be able to write it.
        if not stat.S_ISDIR(os.lstat(name, dir_fd=from_fd).st_mode):
            raise
        _move_read_only(from_fd, name, store_fd, item)


def _move_read_only(from_fd: int, name: str, store_fd: int, item: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=from_fd)
    try:
        os.fchmod(fd, 0o755)
        try:
            rename_to_free_name(from_fd, name, store_fd, item)
        finally:
            os.fchmod(fd, 0o555)
            os.utime(fd, ns=(_SECOND, _SECOND))
    finally:
        os.close(fd)
