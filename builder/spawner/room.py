# SPDX-License-Identifier: GPL-3.0-or-later
"""Namespaces made in advance: a room for the next container, half furnished.

Making namespaces takes most of a millisecond, so the spawner does it while it has
nothing else to do: it enters new ones, furnishes them when a description comes, launches
the container's first process, which inherits them, and goes home. What is left to that
process are plain system calls: it finds its root ready.

The mounts of the host are never in a room. It begins with an empty directory, beneath what
becomes the container's root, and each thing of the host is opened at home, as a mount of its
own that is attached nowhere, and carried in. So nothing has to be got rid of before a builder
runs, for which the kernel would wait for all processors, and the host may mount what it
likes meanwhile.

No process but the spawner is ever in a room that is not let, and a room is let once. To
let its network namespace again would save 0.4 ms, but a builder leaves traces there that
no privilege is needed for, and another one would meet: ports that wait for the end of a
TCP connection, metrics of routes, counters.

Entry points: `Home`, with `enter_room` and `return_home`, and between both `step_out`, which
leaves the mounts of the room alone, and `step_in`.
"""

import os

from builder.spawner import network, root
from builder.spawner.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    setns,
    unshare,
)

_NAMESPACES = (
    ("mnt", CLONE_NEWNS),
    ("net", CLONE_NEWNET),
    ("ipc", CLONE_NEWIPC),
    ("uts", CLONE_NEWUTS),
    ("pid", CLONE_NEWPID),
)
_ALL = sum(flag for _, flag in _NAMESPACES)


class Home:
    """The namespaces and the root directory that the spawner was started in.

    Args:
        proc: A descriptor of its ``/proc``.

    Attributes:
        away: Whether there is a room, with this process in its namespaces but perhaps not in
            that of mounts.
    """

    def __init__(self, proc: int) -> None:
        self._proc = proc
        self._namespaces = [(self._open_namespace(name), flag) for name, flag in _NAMESPACES]
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        self._empty = -1
        self._room = -1
        self._inside = False
        self.away = False

    def enter_room(self, loopback: bytes) -> None:
        """Enter new namespaces, with the loopback interface up and an empty root.

        Raises:
            OSError: It is not permitted, or a limit is reached; the spawner is at home.
        """
        try:
            self._enter_empty()
            unshare(_ALL)
            self._room = self._open_namespace("mnt")
            network.bring_up(loopback)
        except OSError:
            self.return_home()
            raise

    def _enter_empty(self) -> None:
        """Enter a mount namespace without any of the host's, of which a room is a copy."""
        self.away = self._inside = True
        if self._empty >= 0:
            setns(self._empty, CLONE_NEWNS)
            return
        unshare(CLONE_NEWNS)
        root.leave_everything()
        self._empty = self._open_namespace("mnt")

    def _open_namespace(self, name: str) -> int:
        return os.open(f"self/ns/{name}", os.O_RDONLY, dir_fd=self._proc)

    def step_out(self) -> None:
        """See the mounts of the host."""
        if self._inside:
            setns(self._namespaces[0][0], CLONE_NEWNS)
            root.stand_on(self._root)
            self._inside = False

    def step_in(self) -> None:
        """See those of the room."""
        if not self._inside:
            setns(self._room, CLONE_NEWNS)
            self._inside = True

    def return_home(self) -> None:
        """Leave the room, whose namespaces live on only if a process was made in them.

        Raises:
            OSError: It failed; the spawner must not go on.
        """
        if not self.away:
            return
        if self._room >= 0:
            os.close(self._room)
            self._room = -1
        self.step_out()
        for fd, flag in self._namespaces[1:]:
            setns(fd, flag)
        self.away = False
