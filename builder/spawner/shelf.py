# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts of things that lie side by side, such as the inputs of a build in the store.

Of the first few, each is opened by its path and given its attributes. Then the directory is
copied once with these attributes, and of that copy each further mount is a part, which takes
two thirds of the time. Linux 6.15 has allowed that.

Entry point: `Shelf.open`.
"""

import os

from builder.spawner.filesystems import CLONE_TREE, mount_tree, private
from builder.spawner.syscalls import AT_EMPTY_PATH, AT_RECURSIVE, mount_setattr, open_tree

_FEW = 4


class Shelf:
    """The directory that things were last opened in, and the copy of it that they are parts of."""

    def __init__(self) -> None:
        self._above = self._attributes = b""
        self._opened = 0
        self._copy = -1

    def open(self, source: bytes, attributes: bytes) -> int:
        """Give a mount of a file or directory and all that is mounted below it.

        It is attached nowhere and private. A symbolic link as the last component is not
        followed.

        Args:
            source: Its path.
            attributes: A ``struct mount_attr``.

        Raises:
            OSError: It cannot be opened.
        """
        above, _, name = source.rpartition(b"/")
        if above != self._above or attributes != self._attributes:
            self.close()
            self._above, self._attributes = above, attributes
        elif self._copy >= 0:
            return open_tree(self._copy, name, CLONE_TREE)
        tree = _open_private(source, attributes)
        self._opened += 1
        if self._opened == _FEW and above:
            self._copy = _copy(above, attributes, name)
        return tree

    def close(self) -> None:
        """Close the copy; mounts that are parts of it remain."""
        if self._copy >= 0:
            os.close(self._copy)
        self._opened, self._copy = 0, -1


def _open_private(source: bytes, attributes: bytes) -> int:
    tree = mount_tree(source)
    try:
        attributes = private(attributes)
        mount_setattr(tree, b"", AT_EMPTY_PATH | AT_RECURSIVE, attributes, len(attributes))
    except OSError:
        os.close(tree)
        raise
    return tree


def _copy(directory: bytes, attributes: bytes, name: bytes) -> int:
    """Copy a directory, unless nothing in it could be copied from there."""
    try:
        copy = _open_private(directory, attributes)
    except OSError:
        return -1
    try:
        os.close(open_tree(copy, name, CLONE_TREE))
    except OSError:
        os.close(copy)
        return -1
    return copy
