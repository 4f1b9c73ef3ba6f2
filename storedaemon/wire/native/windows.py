# SPDX-License-Identifier: GPL-3.0-or-later
"""Flow control: how many bytes of stream frames may be under way for one request.

A stream frame (a chunk or an event) uses up as many bytes of its request's
window as its length prefix says. Whoever receives it gives them back with a
credit message once it has dealt with the frame. So nobody has to hold more than
a window for a peer that is slow, and a slow request does not stop its
neighbours on the same connection.
"""

from storedaemon.wire.native.faults import FaultError

MAX_STREAM_FRAME = 65_536
"""Bytes of the longest event or chunk that the daemon sends."""

SMALLEST_WINDOW = 2 * MAX_STREAM_FRAME
"""Credit may be late by half a window, and the other half must hold a frame."""

DAEMON_WINDOW = 1 << 20
"""Bytes of a body that the daemon takes ahead of its own work."""


class Incoming:
    """The receiver's side of one window.

    Args:
        size: The window, as announced in this side's hello.
    """

    __slots__ = ("_consumed", "_size", "_used")

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._consumed = 0

    def received(self, length: int) -> None:
        """Count a stream frame that came in.

        Raises:
            FaultError: The peer sent more than the window holds.
        """
        self._used += length
        if self._used > self._size:
            raise FaultError("window-exceeded", f"more than {self._size} bytes ahead of credit")

    def consumed(self, length: int) -> int:
        """Count a frame that was dealt with; give the credit to send now, or 0.

        Credit goes out when half the window is due, so that it costs little.
        """
        self._consumed += length
        if 2 * self._consumed < self._size:
            return 0
        credit, self._consumed = self._consumed, 0
        self._used -= credit
        return credit


class Outgoing:
    """The sender's side of one window.

    Args:
        size: The window that the peer's hello announced; 0 for none.
    """

    __slots__ = ("_available", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._available = size

    def fits(self, length: int) -> bool:
        """Say whether a stream frame may be sent now."""
        return not self._size or length <= self._available

    def sent(self, length: int) -> None:
        """Count a stream frame that is sent."""
        self._available -= length

    def credit(self, amount: int) -> None:
        """Take credit from the peer.

        Raises:
            FaultError: It gives back more than was used.
        """
        self._available += amount
        if self._size and self._available > self._size:
            raise FaultError("window-exceeded", "credit for more bytes than were sent")
