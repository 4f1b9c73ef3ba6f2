# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting trees that hold next to nothing, such as most builds leave, without leaving the loop.

A message to a worker and back takes ten times as long as deleting a few empty
directories. Whatever else a tree holds is left to `store.files.delete_tree`.
Entry point: `delete_bare_tree`.
"""

import os
import stat
from itertools import islice

from store.files import open_directory, require_component

_MOST_ENTRIES = 64
"""Beyond so many, in the whole tree, this would hold others up."""

_LEVELS = 3
"""Of directories in each other: a build's own, its store, the mount point of an input."""


def delete_bare_tree(dirfd: int, name: str) -> bool:
    """Delete a directory that holds a few empty directories and empty files at most.

    As with `store.files.delete_tree`, no link is followed and no mount entered.

    Returns:
        Whether it is gone; if not, some of what is below it may be.
    """
    require_component(name)
    try:
        return _Deletion().delete(dirfd, name, _LEVELS)
    except OSError:
        return False  # `delete_tree` knows what to do, or what to say


class _Deletion:
    def __init__(self) -> None:
        self._left = _MOST_ENTRIES

    def delete(self, dirfd: int, name: str, levels: int) -> bool:
        if not levels:
            os.rmdir(name, dir_fd=dirfd)
            return True
        fd = open_directory(dirfd, name)
        try:
            if not self._empty(fd, levels - 1):
                return False
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=dirfd)
        return True

    def _empty(self, fd: int, levels: int) -> bool:
        with os.scandir(fd) as entries:
            names = [entry.name for entry in islice(entries, self._left + 1)]
        self._left -= len(names)
        return self._left >= 0 and all(self._delete_entry(fd, name, levels) for name in names)

    def _delete_entry(self, fd: int, name: str, levels: int) -> bool:
        status = os.lstat(name, dir_fd=fd)
        if stat.S_ISDIR(status.st_mode):
            return self.delete(fd, name, levels)
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            return False
        os.unlink(name, dir_fd=fd)
        return True
