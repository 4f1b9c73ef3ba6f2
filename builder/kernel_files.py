# SPDX-License-Identifier: GPL-3.0-or-later
"""The small text files of /proc and /sys: how they are read and written."""

import os
from collections.abc import Callable

Read = Callable[[str], str]
"""Gives the text of a file; raises OSError."""


def read_text(name: str) -> str:
    """Return what a file says; names in it need not be UTF-8.

    Raises:
        OSError: It cannot be read.
    """
    with open(name, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def read_optional(name: str, read: Read = read_text) -> str:
    """Return what a file says, or nothing."""
    try:
        return read(name)
    except OSError:
        # Kernels and cgroups differ in what they have, and a process may end.
        return ""


def write_text(name: str, text: str) -> None:
    """Write to a file by one call, as the kernel wants it.

    Raises:
        OSError: The kernel refuses.
    """
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def entry(text: str, name: str) -> int:
    """Return the number after a name at the start of a line, 0 where there is none."""
    for line in text.splitlines():
        found, _, rest = line.partition(" ")
        if found == name:
            words = rest.split()
            return int(words[0]) if words and words[0].isdigit() else 0
    return 0
