# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the cgroups of builds are made: in a directory of this daemon's, below its own cgroup.

In version 1 every cgroup may have both processes and cgroups in it. In version 2 the
daemon must first go into one beside the builds', which it does only where the
service manager says that it may (``Delegate=``), or where its cgroup hands memory on
already.

Entry points: `own_place`, `Home.make`.
"""

import os
from contextlib import suppress
from itertools import count

from builder.kernel_files import read_text, write_text
from builder.memory.group import Group
from builder.memory.places import Place, find_place

_PREFIX = "storedaemon-"
_LEAF = "daemon"
_DELEGATED = ("trusted.delegate", "user.delegate")


def own_place() -> Place | None:
    """Return the memory cgroup of this process; None where there is none to be seen."""
    try:
        texts = [read_text(f"/proc/self/{name}") for name in ("cgroup", "mountinfo")]
    except OSError:
        # A kernel without cgroups has no such file.
        return None
    return find_place(*texts)


class Home:
    """A directory for cgroups of builds.

    Args:
        directory: It.
        version: Of the interface.
    """

    def __init__(self, directory: str, version: int) -> None:
        self._directory = directory
        self._version = version
        self._numbers = count(1)

    @classmethod
    def make(cls, place: Place) -> "Home":
        """Make one, and remove what daemons have left that were killed.

        Raises:
            OSError: There can be none.
        """
        if place.version == 2:
            _hand_on(place.directory)
        remove_leftovers(place.directory)
        directory = f"{place.directory}/{_PREFIX}{os.getpid()}"
        with suppress(FileExistsError):
            os.mkdir(directory)
        if place.version == 2:
            _enable(directory)
        return cls(directory, place.version)

    def group(self) -> Group:
        """Make a cgroup.

        Raises:
            OSError: It cannot be made.
        """
        directory = f"{self._directory}/build-{next(self._numbers)}"
        os.mkdir(directory)
        return Group(directory, self._version)

    def close(self) -> None:
        """Remove the directory, with what is in it as far as that is over."""
        _remove(self._directory)


def remove_leftovers(directory: str) -> None:
    """Remove the directories of daemons that are no more; one with processes in it stays."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
    for name in names:
        number = name.removeprefix(_PREFIX)
        if number.isdigit() and not os.path.exists(f"/proc/{number}"):
            _remove(f"{directory}/{name}")


def _remove(directory: str) -> None:
    # Where processes are left, the next daemon tries again.
    with suppress(OSError):
        with os.scandir(directory) as entries:
            inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for path in inner:
            with suppress(OSError):
                os.rmdir(path)
        os.rmdir(directory)


def _hand_on(directory: str) -> None:
    """Let cgroups below a cgroup of version 2 count memory, which it must have no process for."""
    if "memory" in read_text(f"{directory}/cgroup.subtree_control").split():
        return
    if "memory" not in read_text(f"{directory}/cgroup.controllers").split():
        raise PermissionError(f"`{directory}' does not count memory")
    if not _is_delegated(directory):
        raise PermissionError(f"`{directory}' is not this daemon's to divide")
    leaf = f"{directory}/{_LEAF}"
    with suppress(FileExistsError):
        os.mkdir(leaf)
    for pid in read_text(f"{directory}/cgroup.procs").split():
        with suppress(ProcessLookupError):
            write_text(f"{leaf}/cgroup.procs", pid)
    _enable(directory)


def _is_delegated(directory: str) -> bool:
    for name in _DELEGATED:
        with suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def _enable(directory: str) -> None:
    write_text(f"{directory}/cgroup.subtree_control", "+memory")
