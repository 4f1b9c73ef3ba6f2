# SPDX-License-Identifier: GPL-3.0-or-later
"""clone3(2): a process that is not our child but our parent's, the daemon's.

Entry point: `Cloner`.
"""

import ctypes
import struct

from builder.spawner.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    clone3,
)

_CLONE_PIDFD = 0x00001000
_CLONE_PARENT = 0x00008000

_ARGUMENTS = struct.Struct("=11Q")  # struct clone_args


def namespace_flags(*, isolated: bool, network: bool, user: bool) -> int:
    """Give the flags for the namespaces of a container."""
    flags = 0
    if isolated:
        flags |= CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    if network:
        flags |= CLONE_NEWNET
    if user:
        flags |= CLONE_NEWUSER
    return flags


class Cloner:
    """Makes processes; holds the memory that the kernel writes to."""

    def __init__(self) -> None:
        self._pidfd = ctypes.c_int(-1)
        self._buffer = bytearray(_ARGUMENTS.size)

    def clone(self, flags: int) -> tuple[int, int]:
        """Make a sibling of this process.

        It gets SIGCHLD as its exit signal from this process, as CLONE_PARENT wants it, and a
        descriptor that is close-on-exec.

        Returns:
            Its pid and its pidfd; (0, -1) in the new process.

        Raises:
            OSError: No process could be made.
        """
        flags |= _CLONE_PARENT | _CLONE_PIDFD
        address = ctypes.addressof(self._pidfd)
        _ARGUMENTS.pack_into(self._buffer, 0, flags, address, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        pid = clone3(self._buffer, _ARGUMENTS.size)
        return (pid, self._pidfd.value) if pid else (0, -1)
