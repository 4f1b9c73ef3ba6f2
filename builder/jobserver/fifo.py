# SPDX-License-Identifier: GPL-3.0-or-later
"""The fifo of one build, of which the builder has the other end; nothing here waits."""

import fcntl
import os
import struct
import termios
from contextlib import suppress

TOKEN = b"+"
"""What GNU make writes; which byte it is does not matter."""

_MOST_AT_ONCE = 4096


class Fifo:
    """A new fifo.

    Args:
        path: Where it is made, out of everybody's reach: who sees it may use it.
    """

    def __init__(self, path: str) -> None:
        os.mkfifo(path, 0o600)
        try:
            # Opened for both, it neither waits for a peer nor ever sees an end.
            self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            os.unlink(path)
            raise
        os.fchmod(self.fd, 0o666)
        self._path = path

    def close(self) -> None:
        """Remove it, if nobody did; what is in it is lost."""
        os.close(self.fd)
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def unread(self) -> int:
        """Count what lies in it, whoever wrote it."""
        [count] = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))
        return int(count)

    def put(self, count: int) -> int:
        """Write tokens; return how many, fewer where the builder has filled the fifo."""
        try:
            return os.write(self.fd, TOKEN * min(count, _MOST_AT_ONCE))
        except BlockingIOError:
            return 0

    def take(self, count: int) -> int:
        """Read up to so many bytes; return how many, since the builder may be faster."""
        try:
            return len(os.read(self.fd, min(count, _MOST_AT_ONCE)))
        except BlockingIOError:
            return 0
