# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's end of a channel to a helper: `locker.channel` for trio.

`send` and `receive` try the system call first and wait only where it would block. A call
that does not block is no checkpoint: a checkpoint would cost more than the transaction.
`receive` makes one after a run of messages, so that a chatty helper cannot keep the loop.
"""

import os
import socket
from collections.abc import Sequence
from typing import Any

import trio

from locker.channel import prepare, receive_datagram, send_datagram
from locker.codec import Codec
from locker.errors import ChannelClosedError

MAX_BURST = 64
"""Messages received in a row before other tasks get their turn."""


class AsyncChannel:
    """A channel for trio tasks; any number may send, one may receive.

    Args:
        sock: A connected SOCK_SEQPACKET socket; the channel owns it.
        codec: The messages of both directions.
    """

    def __init__(self, sock: socket.socket, codec: Codec) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._codec = codec
        self._turn = trio.StrictFIFOLock()
        self._burst = 0

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._socket.fileno() < 0

    async def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """Send a message with duplicates of the descriptors; messages keep their order.

        Cancelled, it has sent nothing.

        Raises:
            ChannelClosedError: The other end is gone, or `close` was called.
        """
        data, fds, body = prepare(self._codec, message, fds)
        try:
            if not self._send_now(data, fds):
                await self._send_in_turn(data, fds)
        finally:
            if body is not None:
                os.close(body)

    def send_nowait(self, message: object, fds: Sequence[int] = ()) -> None:
        """Send a message if that needs no waiting.

        Raises:
            trio.WouldBlock: It does; nothing is sent.
            ChannelClosedError: The other end is gone, or `close` was called.
        """
        data, fds, body = prepare(self._codec, message, fds)
        try:
            if not self._send_now(data, fds):
                raise trio.WouldBlock
        finally:
            if body is not None:
                os.close(body)

    def _send_now(self, data: bytes, fds: Sequence[int]) -> bool:
        """Send unless others wait for their turn, or the socket is full."""
        return not self._turn.locked() and self._try_send(data, fds)

    def _try_send(self, data: bytes, fds: Sequence[int]) -> bool:
        self._check_open()
        try:
            send_datagram(self._socket, data, fds)
        except BlockingIOError:
            return False
        return True

    async def _send_in_turn(self, data: bytes, fds: Sequence[int]) -> None:
        async with self._turn:
            while not self._try_send(data, fds):
                try:
                    await trio.lowlevel.wait_writable(self._socket)
                except trio.ClosedResourceError as error:
                    raise ChannelClosedError("this end of the channel is closed") from error

    async def receive(self) -> tuple[Any, tuple[int, ...]]:
        """Wait for a message; give it and its descriptors, which are now the caller's.

        Raises:
            ChannelClosedError: The other end is gone, or `close` was called.
            MessageError: What arrived is no message; the channel remains usable.
        """
        self._burst += 1
        if self._burst > MAX_BURST:
            self._burst = 0
            await trio.lowlevel.checkpoint()
        while True:
            self._check_open()
            try:
                return receive_datagram(self._socket, self._codec)
            except BlockingIOError:
                await self._wait_readable()

    async def _wait_readable(self) -> None:
        self._burst = 0
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except trio.ClosedResourceError as error:
            raise ChannelClosedError("this end of the channel is closed") from error

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise ChannelClosedError("this end of the channel is closed")

    def close(self) -> None:
        """Close the socket; waiting tasks get `ChannelClosedError`, and the helper ends."""
        if not self.closed:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
