# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's side of what a shell reads and prints: a terminal's master, or two pipes.

Entry point: `open_streams`.
"""

import errno
import fcntl
import os
import socket
import struct
import termios
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from builder.container import Terminal
from store.errors import StoreError

CHUNK = 32 * 1024
"""Bytes that are read at once."""

_END_OF_INPUT = b"\x04"


class Streams(ABC):
    """What both kinds have in common.

    Attributes:
        inner: What the container gets as standard input and output, until `let_go`.
    """

    inner: tuple[int, int] | None = None
    _source = _sink = -1

    async def read(self) -> bytes:
        """Return what the shell printed; nothing once nobody can print any more."""
        while True:
            await trio.lowlevel.wait_readable(self._source)
            try:
                return os.read(self._source, CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                # So a terminal tells that nobody has its other end open.
                if error.errno == errno.EIO:
                    return b""
                raise

    async def write(self, data: bytes) -> bool:
        """Let the shell read something; tell False where nobody will."""
        view = memoryview(data)
        while view:
            await trio.lowlevel.wait_writable(self._sink)
            try:
                view = view[os.write(self._sink, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO):
                    return False
                raise
        return True

    def let_go(self) -> None:
        """Close the inner ends, so that the end of the container is seen."""
        for fd in set(self.inner or ()):
            os.close(fd)
        self.inner = None

    @abstractmethod
    def arrive(self) -> None:
        """Take what was made together with the container, which is there by now.

        Raises:
            StoreError: It is not, for the container has ended.
        """

    @abstractmethod
    async def end_input(self) -> None:
        """Let the shell read the end of its input."""

    def resize(self, _terminal: Terminal) -> bool:
        """Change the size of the terminal; tell whether there is one."""
        return False

    def close(self) -> None:
        """Close everything."""
        self.let_go()
        for fd in {self._source, self._sink} - {-1}:
            os.close(fd)


class _Pipes(Streams):
    def __init__(self) -> None:
        given, self._sink = os.pipe2(os.O_CLOEXEC)
        self._source, taken = os.pipe2(os.O_CLOEXEC)
        self.inner = given, taken
        for fd in (self._sink, self._source):
            os.set_blocking(fd, False)

    def arrive(self) -> None:
        pass  # pipes are there from the beginning

    async def end_input(self) -> None:
        os.close(self._sink)
        self._sink = -1


class _Terminal(Streams):
    """A terminal, whose master comes from within the container through a socket."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        fd = theirs.detach()
        self.inner = fd, fd

    def arrive(self) -> None:
        # Nobody else has the other end by now, so there is a master or the end of the stream.
        flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        fds = socket.recv_fds(self._ours, 1, 1, flags)[1]
        if not fds:
            raise StoreError("the container ended before it had a terminal", reason="cannot-enter")
        [self._source] = [self._sink] = fds
        os.set_blocking(self._source, False)

    async def end_input(self) -> None:
        await self.write(_END_OF_INPUT)

    def resize(self, terminal: Terminal) -> bool:
        size = struct.pack("=HHHH", terminal.rows, terminal.columns, 0, 0)
        if self._sink >= 0:
            fcntl.ioctl(self._sink, termios.TIOCSWINSZ, size)
        return True

    def close(self) -> None:
        super().close()
        self._ours.close()


@contextmanager
def open_streams(terminal: Terminal | None) -> Iterator[Streams]:
    """Open what a container with that terminal, or with none, needs; close it afterwards."""
    streams = _Pipes() if terminal is None else _Terminal()
    try:
        yield streams
    finally:
        streams.close()
