# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting trees that hold next to nothing, such as most builds leave, without leaving the loop.

Deleting a few empty directories takes little longer than giving the tree another name,
and a tenth of a message to a worker and back. Whatever else a tree holds is left to
`store.files.delete_tree`. Entry point: `delete_bare_tree`.
"""

import os
from collections.abc import Iterable
from itertools import islice

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_MOST_ENTRIES = 64
"""Beyond so many, in the whole tree, this would hold others up."""

_LEVELS = 3
"""Of directories in each other: a build's own, its store, the mount point of an input."""


def delete_bare_tree(path: str, inner: Iterable[str] = ()) -> bool:
    """Delete a directory that holds a few empty directories and empty files at most.

    As with `store.files.delete_tree`, no link is followed.

    Args:
        path: The directory; what is above it must be ours alone.
        inner: Directories it may hold; where there is nothing else, it is not looked into.
            Whatever may have links in it, these lie in `path` itself.

    Returns:
        Whether it is gone; if not, some of what is below it may be.
    """
    most = _MOST_ENTRIES
    try:
        for name in inner:
            try:
                most = _delete(None, f"{path}/{name}", _LEVELS - 1, most)
            except FileNotFoundError:
                continue
        return _delete(None, path, _LEVELS, most) >= 0
    except OSError:
        return False  # `delete_tree` knows what to do, or what to say


def _delete(dirfd: int | None, name: str, levels: int, most: int) -> int:
    """Delete a directory; tell how many entries may still go, negative if it is not gone."""
    try:
        os.rmdir(name, dir_fd=dirfd)
    except OSError:
        if not levels:
            raise
    else:
        return most
    fd = os.open(name, _DIRECTORY, dir_fd=dirfd)
    try:
        most = _empty(fd, levels - 1, most)
    finally:
        os.close(fd)
    if most >= 0:
        os.rmdir(name, dir_fd=dirfd)
    return most


def _empty(fd: int, levels: int, most: int) -> int:
    with os.scandir(fd) as entries:
        found = list(islice(entries, most + 1))
    most -= len(found)
    for entry in found:
        if most < 0:
            break
        if entry.is_dir(follow_symlinks=False):
            most = _delete(fd, entry.name, levels, most)
        elif entry.is_file(follow_symlinks=False) and not entry.stat(follow_symlinks=False).st_size:
            os.unlink(entry.name, dir_fd=fd)
        else:
            return -1
    return most
