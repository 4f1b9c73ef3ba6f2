# SPDX-License-Identifier: GPL-3.0-or-later
"""The terminal of a container: a pair in its own devpts, whose master goes to the daemon.

Whoever has furnished the container opens it from within, so that its name there is its own,
``/dev/pts/0``. The container's first process opens it once more by that name, which makes it
the controlling terminal of that process's session.

Entry point: `open_terminal`.
"""

import fcntl
import os
import socket
import struct
import termios

from builder.spawner.script import Script

_MULTIPLEXER = b"/dev/ptmx"
_TIOCGPTN, _TIOCSPTLCK = 0x80045430, 0x40045431  # of all machines that have a filter


def open_terminal(script: Script, channel: int) -> bytes:
    """Make the terminal and send its master through a socket; give the terminal's name.

    Raises:
        OSError: There is no devpts, or nobody wants the master any more.
    """
    assert script.terminal is not None, "a container has a terminal if it is to have one"
    columns, rows = script.terminal
    master = os.open(_MULTIPLEXER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
        [number] = struct.unpack("=I", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))
        name = b"/dev/pts/%d" % number
        if script.ids is not None:
            os.chown(name, script.ids[0], -1, follow_symlinks=False)
        with socket.socket(fileno=os.dup(channel)) as sender:
            socket.send_fds(sender, [b"\n"], [master])
    finally:
        os.close(master)
    return name
