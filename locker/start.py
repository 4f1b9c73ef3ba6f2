# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting helper processes, and what a helper does first.

A helper is a fresh interpreter that runs one module. It has its end of the channel at
descriptor 3, nothing to read at 0, the daemon's standard output and error, and nothing else.
It leaves the daemon's session, so that a terminal's interrupt does not reach it, and ends only
when the channel does: an orderly stop of the daemon still needs it.

Entry points: `start_helper` in the daemon, before it makes its first thread; `adopt_channel`
in the helper.
"""

import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Mapping

import prctl

from locker.channel import Channel
from locker.codec import Codec

HELPER_FD = 3
"""Where a helper finds its socket."""

KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What a helper sees of the daemon's environment; it gets its settings as arguments."""

_RESET_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)


@dataclasses.dataclass(frozen=True, slots=True)
class StartedHelper:
    """A helper process.

    Attributes:
        pid: A child of this process; register it with the process monitor.
        socket: This side's end, for a `Channel` or an `AsyncChannel`.
    """

    pid: int
    socket: socket.socket


def helper_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Give the part of an environment that helpers see."""
    return {name: environment[name] for name in KEPT_ENVIRONMENT if name in environment}


def start_helper(module: str, *args: str) -> StartedHelper:
    """Start `python -m module args…` with one end of a new socket pair at descriptor 3.

    Raises:
        OSError: The process cannot be made.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            pid = _spawn(module, args, theirs.fileno())
        except BaseException:
            ours.close()
            raise
    return StartedHelper(pid, ours)


def _spawn(module: str, args: tuple[str, ...], fd: int) -> int:
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-m", module, *args],
        helper_environment(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_DUP2, fd, HELPER_FD),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=_RESET_SIGNALS,
    )


def adopt_channel(codec: Codec, name: str) -> Channel:
    """Make this process a helper: narrow what it inherited, and take its end of the channel.

    The interrupting signals are caught rather than ignored, because what a process ignores
    stays ignored in the programs that it executes.

    Args:
        codec: The messages of the channel.
        name: What `ps` shows, at most 15 bytes.
    """
    os.closerange(HELPER_FD + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_inheritable(HELPER_FD, False)
    prctl.set_name(name)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _disregard)
    return Channel(socket.socket(fileno=HELPER_FD), codec)


def _disregard(_number: int, _frame: object) -> None:
    """Take a signal without effect."""
