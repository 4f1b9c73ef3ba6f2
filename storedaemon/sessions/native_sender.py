# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes whole frames to a native client, for many tasks at once.

A frame of which a byte has been written is always written to its end, even when
the task that sent it is cancelled: what is left goes out before the next frame.
Where the socket takes a frame at once, nobody waits and no task is switched.
"""

import socket

import trio

from storedaemon.sessions.sockets import ClientGoneError


class FrameSender:
    """The writing half of a connection.

    Args:
        sock: Connected, not blocking.
    """

    __slots__ = ("_lock", "_rest", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = trio.StrictFIFOLock()
        self._rest = b""

    def send_now(self, frame: bytes) -> bytes | None:
        """Send without waiting.

        Returns:
            None when all is sent; otherwise what `send` has to be called with, which is
            empty when a part of the frame is out.

        Raises:
            ClientGoneError: The client closed its end.
        """
        if self._rest or self._lock.locked():
            return frame
        sent = self._write(frame)
        self._rest = frame[sent:] if sent else b""
        if sent == len(frame):
            return None
        return b"" if sent else frame

    async def send(self, frame: bytes) -> None:
        """Send a frame after whatever others are sending.

        Raises:
            ClientGoneError: The client closed its end.
        """
        async with self._lock:
            self._rest += frame
            while self._rest:
                self._rest = self._rest[self._write(self._rest) :]
                if self._rest:
                    await trio.lowlevel.wait_writable(self._sock)

    def _write(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGoneError(str(error)) from error
