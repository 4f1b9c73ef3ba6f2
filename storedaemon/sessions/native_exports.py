# SPDX-License-Identifier: GPL-3.0-or-later
"""The methods that export and import items: streams of the form that Guix has."""

from store.exports import ExportError
from store.paths import StorePath
from storedaemon.operations import exports
from storedaemon.operations.imports import importing
from storedaemon.sessions.native_call import Call
from storedaemon.wire.native.windows import MAX_STREAM_FRAME

# What a frame has beside the data.
_OVERHEAD = 256
PIECE = MAX_STREAM_FRAME - _OVERHEAD
"""Bytes of a stream in one frame."""


class _Gatherer:
    """Sends a stream in frames of the largest size, however it comes."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._gathered = bytearray()

    async def send(self, data: bytes) -> None:
        """Take some more of the stream."""
        self._gathered += data
        size = len(self._gathered)
        if size >= PIECE:
            for start in range(0, size - size % PIECE, PIECE):
                await self._call.send_chunk(bytes(self._gathered[start : start + PIECE]))
            del self._gathered[: size - size % PIECE]

    async def flush(self) -> None:
        """Send what is left."""
        if self._gathered:
            await self._call.send_chunk(bytes(self._gathered))
            self._gathered.clear()


async def export_items(call: Call) -> list[StorePath]:
    """Stream items, and give them in order."""
    gatherer = _Gatherer(call)
    exported = await exports.export_items(
        call.services,
        call.session,
        call.params.texts("paths"),
        gatherer.send,
        closure=call.params.flag("closure"),
        sign=call.params.flag("sign", default=True),
    )
    await gatherer.flush()
    return exported


async def import_items(call: Call) -> list[StorePath]:
    """Register the items of a stream, and give them in order."""
    async with importing(call.services, call.session) as work:
        while pieces := await call.next_of_body():
            for piece in pieces:
                taken = await work.feed(piece)
                if taken < len(piece):
                    raise ExportError(f"{len(piece) - taken} bytes after the end of the export")
        work.end()
        return work.paths
