# SPDX-License-Identifier: GPL-3.0-or-later
"""Namespaces made in advance: the spawner waits for a request inside the next container's.

Making namespaces takes most of a millisecond, so the spawner does it while it has
nothing else to do: it enters new ones, furnishes them when a description comes, launches
the container's first process, which inherits them, and goes home. What is left to that
process are plain system calls: it finds its root ready.

No process but the spawner is ever in a room that is not let, and a room is let once. To
let its network namespace again would save 0.4 ms, but a builder leaves traces there that
no privilege is needed for, and another one would meet: ports that wait for the end of a
TCP connection, metrics of routes, counters.

Entry points: `Home`, with `enter_room` and `return_home`.
"""

import os
import select

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
    """The namespaces and the root directory that the spawner was started in."""

    def __init__(self) -> None:
        self._namespaces = [
            (os.open(f"/proc/self/ns/{name}", os.O_RDONLY), flag) for name, flag in _NAMESPACES
        ]
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY)
        self._changes = select.poll()
        self._changes.register(self._mounts, select.POLLPRI)
        self.away = False

    def enter_room(self, loopback: bytes) -> None:
        """Enter new namespaces, with the loopback interface up.

        Raises:
            OSError: It is not permitted, or a limit is reached; the spawner is at home.
        """
        self._changes.poll(0)  # tells what has changed since it was last asked
        try:
            unshare(_ALL)
            self.away = True
            root.detach_from_host()
            network.bring_up(loopback)
        except OSError:
            self.return_home()
            raise

    def mounts_changed(self) -> bool:
        """Tell whether the host has mounted or unmounted something since the room was made."""
        return bool(self._changes.poll(0))

    def return_home(self) -> None:
        """Leave the room, whose namespaces live on only if a process was made in them.

        Raises:
            OSError: It failed; the spawner must not go on.
        """
        if self.away:
            for fd, flag in self._namespaces:
                setns(fd, flag)
            os.fchdir(self._root)
            os.chroot(".")
            self.away = False
