# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames: a length as four bytes, most significant first, and as many bytes.

A length prefix, and not self-delimiting CBOR alone, so that the size of a
message is known, and can be refused, before a byte of it is looked at, and so
that both sides count the same number against a window.
"""

import struct
from collections.abc import Iterator

from storedaemon.wire.native.faults import FaultError

PREFIX = struct.Struct(">I")
MAX_FRAME = 1 << 20
"""Bytes of the longest frame that either side sends, without the prefix."""


def encode_frame(body: bytes) -> bytes:
    """Put the length before a body.

    Raises:
        ValueError: The body is longer than a peer accepts; a mistake of ours.
    """
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {len(body)} bytes, more than {MAX_FRAME}")
    return PREFIX.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frame bodies.

    Holds at most one incomplete frame: feed it what was read, take what it gives.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that has begun and has not ended."""
        return len(self._buffer)

    @property
    def announced(self) -> int:
        """Bytes of that frame, with its prefix; as far as that has come."""
        held = len(self._buffer)
        return PREFIX.size + self._size_at(0) if held >= PREFIX.size else held

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes; give each body that they complete.

        The iterator must be run to its end before the next call.

        Raises:
            FaultError: A frame is empty or longer than `MAX_FRAME`.
        """
        self._buffer += data
        start, end = 0, len(self._buffer)
        try:
            while end - start >= PREFIX.size:
                size = self._size_at(start)
                if end - start - PREFIX.size < size:
                    break
                start += PREFIX.size
                yield bytes(self._buffer[start : start + size])
                start += size
        finally:
            del self._buffer[:start]

    def _size_at(self, start: int) -> int:
        (size,) = PREFIX.unpack_from(self._buffer, start)
        if not 0 < size <= MAX_FRAME:
            raise FaultError(
                "frame-size",
                f"a frame of {size} bytes; the limits are 1 and {MAX_FRAME} (another protocol?)",
            )
        return int(size)
