# SPDX-License-Identifier: GPL-3.0-or-later
"""What an archive says, in order, without regard to its bytes.

A node is a `Directory` followed by its nodes and a `DirectoryEnd`, a `Regular`
followed by `Content` of exactly its size, or a `Symlink`. An archive is one
node, whose name is empty; in a directory names ascend in the order of their
bytes. Names and targets are the bytes the file system has.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory opens; the nodes up to its `DirectoryEnd` are in it."""

    name: bytes


@dataclass(frozen=True, slots=True)
class DirectoryEnd:
    """The innermost open directory is complete."""


@dataclass(frozen=True, slots=True)
class Regular:
    """A file; `size` bytes of `Content` follow, in as many events as may be, none if it is 0."""

    name: bytes
    executable: bool
    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """The next bytes of the last file; valid only until its source is asked for more."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link."""

    name: bytes
    target: bytes


NarEvent = Directory | DirectoryEnd | Regular | Content | Symlink
