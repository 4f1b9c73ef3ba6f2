# SPDX-License-Identifier: GPL-3.0-or-later
"""Received bytes, from which messages are taken in order.

A message is taken in one go where all of it is there, which is the usual case.
Where it is not, what was read of it is kept, field by field and item by item of
its lists, so that a peer that sends a byte at a time costs no more than one
that does not.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from storedaemon.wire.errors import NeedMoreData, RemoteError
from storedaemon.wire.layout import Layout
from storedaemon.wire.primitives import U64, Buffer, Many, read_u32

MAX_MESSAGE = 128 * 1024 * 1024
"""Longest request in all: a list of a million paths, or the longest text with its references."""


class Coded(Protocol):
    """A kind of message that opens with a number."""

    @property
    def request(self) -> Layout:
        """What follows the number."""


C = TypeVar("C", bound=Coded)


class _Progress:
    """How far the reading of an incomplete message has come."""

    __slots__ = ("items", "left", "size", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.items: list[Any] = []
        self.left: int | None = None
        self.size = 0


class ReceiveBuffer:
    """Bytes from one peer.

    Args:
        limit: The length of the longest message.
    """

    __slots__ = ("_data", "_limit", "_position", "_progress", "_wanted")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._data: Buffer = b""
        self._position = 0
        self._wanted = 0
        self._limit = limit
        self._progress: _Progress | None = None

    @property
    def size(self) -> int:
        """How many bytes are at hand."""
        return len(self._data) - self._position

    def receive_data(self, data: bytes) -> None:
        """Append bytes from the peer."""
        if self._position == len(self._data):
            self._data = data
            self._position = 0
            return
        if not isinstance(self._data, bytearray):
            self._data = bytearray(memoryview(self._data)[self._position :])
            self._position = 0
        self._data += data

    def take_rest(self) -> bytes:
        """Take all bytes at hand, for a body that is not read here."""
        rest = bytes(memoryview(self._data)[self._position :])
        self._forget()
        return rest

    def take_code(self) -> int | None:
        """Take one integer of 32 bits, or None until it is there.

        Raises:
            RemoteError: It is too large.
        """
        try:
            code, self._position = read_u32(self._data, self._position, len(self._data))
        except NeedMoreData:
            return None
        return code

    def take_whole(self, table: Mapping[int, C]) -> tuple[C, Any] | None:
        """Take a message that opens with its number, if it is all there and without fault.

        This is the fast way for the usual case; where it gives None, `take_code`
        and `take` find out why.
        """
        data, start = self._data, self._position
        end = len(data)
        if self._progress is not None or end - start < 8:
            return None
        row = table.get(U64.unpack_from(data, start)[0])
        if row is None:
            return None
        layout, position, values = row.request, start + 8, []
        try:
            for read in layout.reads:
                value, position = read(data, position, end)
                values.append(value)
        except (NeedMoreData, RemoteError):
            return None
        self._position = position
        if position == end:
            self._data, self._position = b"", 0
        return row, layout.build(values)

    def take(self, layout: Layout) -> Any | None:
        """Take the message that `layout` describes, or None until all of it is there.

        Calls must repeat the same layout until the message is there.

        Raises:
            RemoteError: The peer sent what is no such message; the text names the field.
        """
        if len(self._data) < self._wanted:
            return None
        progress = self._progress = self._progress or _Progress()
        values, start = progress.values, self._position
        try:
            while len(values) < len(layout.fields):
                kind = layout.lists[len(values)]
                if kind is None:
                    self._read_value(layout, values)
                else:
                    self._read_list(kind, progress)
        except NeedMoreData as more:
            progress.size += self._position - start
            if progress.size + more.until - self._position > self._limit:
                name = layout.fields[len(values)].name
                raise RemoteError(f"{name}: longer than {self._limit} bytes in all") from more
            self._wait_until(more.until)
            return None
        except RemoteError as error:
            raise error.within(layout.fields[len(values)].name) from error
        return self._finish(layout, values, self._position)

    def _read_value(self, layout: Layout, values: list[Any]) -> None:
        kind = layout.fields[len(values)].kind
        value, self._position = kind.read(self._data, self._position, len(self._data))
        values.append(value)

    def _read_list(self, kind: Many[Any], progress: _Progress) -> None:
        data, end, read = self._data, len(self._data), kind.item.read
        if progress.left is None:
            progress.left, self._position = kind.read_count(data, self._position, end)
        while progress.left:
            item, self._position = read(data, self._position, end)
            progress.items.append(item)
            progress.left -= 1
        progress.values.append(tuple(progress.items))
        progress.items, progress.left = [], None

    def _wait_until(self, until: int) -> None:
        """Drop what was read, and note how long the rest must become."""
        self._wanted = until - self._position
        self._data = bytearray(memoryview(self._data)[self._position :])
        self._position = 0

    def _finish(self, layout: Layout, values: list[Any], position: int) -> Any:
        self._progress = None
        self._wanted = 0
        self._position = position
        if position == len(self._data):
            self._forget()
        return layout.build(values)

    def _forget(self) -> None:
        self._data = b""
        self._position = 0
        self._wanted = 0
