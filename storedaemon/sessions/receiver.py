# SPDX-License-Identifier: GPL-3.0-or-later
"""Receiving small requests without waking their sender.

When a message is taken out of a Unix socket, the kernel wakes whoever waits at
the other end, in case it waits for room. A client that waits for our answer
then runs, finds nothing, and sleeps again, at the price of two switches between
processes for each request; where both ends share a processor that is a fifth of
the round trip. So small messages are only looked at (``SO_PEEK_OFF`` moves a
mark along), and taken out several at a time.

A client on another processor takes some microseconds to read our answer and to ask
again. Whoever falls asleep meanwhile is woken by an interrupt between processors, which
in a virtual machine is most of the round trip. So a session that was answered stays
awake for a moment, in which the others have their turns; where that was in vain, ever
more requests are waited for asleep before it tries again. Entry point: `Receiver`.
"""

import socket
import time

import trio

from storedaemon.sessions.sockets import RECEIVE_SIZE, ClientGoneError, receive_now

# Linux's number on all architectures but SPARC and PA-RISC; the module has no name for it.
SO_PEEK_OFF = 42

SMALL = 2048
"""Bytes that are looked at; a longer message is taken out at once, and copied once."""

MOST_LEFT = 8192
"""Bytes that may be left in the socket; they count against what the client may send ahead."""

AWAKE_SECONDS = 60e-6
"""How long a session stays awake after an answer; to sleep and to wake takes as long."""

MOST_ASLEEP = 256
"""Requests that are waited for asleep, at most, before it is tried again."""


class Receiver:
    """Receives from one client's socket.

    Args:
        sock: The client's socket, non-blocking. While messages are received here,
            whoever else wants to read from it, or to close it, calls `settle` first.
    """

    __slots__ = ("_asleep", "_left", "_peeks", "_sock", "_vain")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._left = 0
        self._vain = 0
        self._asleep = 0
        self._peeks = sock.family == socket.AF_UNIX
        try:
            if self._peeks:
                sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        except OSError:
            # Some sandboxed kernels have no such option; it is slower without.
            self._peeks = False

    async def receive(self) -> bytes:
        """Give what the client sends next, once it does; nothing at its end.

        This gives others their turns first; ask `receive_now` before.

        Raises:
            ClientGoneError: It closed its end with an error.
        """
        data = None
        if self._asleep:
            self._asleep -= 1
        else:
            data = await self._receive_awake()
        while data is None:
            # What was looked at would make the socket readable.
            self.settle()
            await trio.lowlevel.wait_readable(self._sock)
            data = self.receive_now()
        return data

    async def _receive_awake(self) -> bytes | None:
        """Give what the client sends within a moment; None if it does not."""
        end = time.perf_counter() + AWAKE_SECONDS
        while time.perf_counter() < end:
            # To look for cancellation, too, would cost half as much again.
            await trio.lowlevel.cancel_shielded_checkpoint()
            data = self.receive_now()
            if data is not None:
                self._vain = 0
                return data
        self._vain = self._asleep = min(2 * self._vain + 1, MOST_ASLEEP)
        return None

    def receive_now(self) -> bytes | None:
        """Give what the client sent already; nothing at its end, None if it sent nothing.

        Raises:
            ClientGoneError: It closed its end with an error.
        """
        if not self._peeks:
            return receive_now(self._sock)
        try:
            data = self._sock.recv(SMALL, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ClientGoneError(str(error)) from error
        self._left += len(data)
        if self._left >= MOST_LEFT or len(data) == SMALL or not data:
            self.settle()
        if len(data) == SMALL:
            data += receive_now(self._sock, RECEIVE_SIZE) or b""
        return data

    def settle(self) -> None:
        """Take out what was only looked at.

        Raises:
            ClientGoneError: The client closed its end with an error.
        """
        while self._left:
            taken = receive_now(self._sock, self._left)
            if not taken:
                raise ClientGoneError("the connection ended unexpectedly")
            self._left -= len(taken)
