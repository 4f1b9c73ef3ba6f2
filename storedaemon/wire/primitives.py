# SPDX-License-Identifier: GPL-3.0-or-later
"""The values that worker protocols are made of.

An integer is a little-endian u64; most must fit in 32 bits. A string is its
length, its bytes, and zeros up to the next multiple of 8. A list is its length
and its items. Every kind reads from a buffer at a position, and gives the value
and the position after it; it raises `NeedMoreData` where the buffer ends too
early and `RemoteError` for what no peer may send. Lengths are compared with
their bounds before anything is allocated or waited for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Any, Generic, Protocol, TypeVar

from storedaemon.wire.errors import NeedMoreData, RemoteError

Buffer = bytes | bytearray
T = TypeVar("T")
E = TypeVar("E", bound=Enum)

MAX_TEXT = 64 * 1024
"""Longest path, name or setting: PATH_MAX is 4096, but one setting holds a list of URLs."""

MAX_CONTENTS = 64 * 1024 * 1024
"""Longest text added to the store, which is kept in memory; scripts of a few MiB exist."""

MAX_CHUNK = 256 * 1024 * 1024
"""Longest piece of a stream; the C++ daemon passes a large write on as one piece."""

MAX_ITEMS = 1024 * 1024
"""Longest list in a request: some stores hold several 100,000 items."""

MAX_REPLY_ITEMS = 16 * 1024 * 1024
"""Longest list in a reply; only clients read these."""

U64 = Struct("<Q")
_U32_MAX = 0xFFFF_FFFF
_ZEROS = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")


class Kind(Protocol[T]):
    """How values of one type look on the wire."""

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[T, int]:
        """Read a value at `position`; give it and the position after it."""

    def write(self, value: T, parts: list[bytes]) -> None:
        """Append the bytes of `value`."""


def read_u64(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Read an integer of 64 bits."""
    after = position + 8
    if after > end:
        raise NeedMoreData(after)
    return U64.unpack_from(buffer, position)[0], after


def read_u32(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Read an integer that takes 8 bytes but must fit in 32 bits."""
    after = position + 8
    if after > end:
        raise NeedMoreData(after)
    value: int = U64.unpack_from(buffer, position)[0]
    if value > _U32_MAX:
        raise RemoteError(f"{value} does not fit in 32 bits")
    return value, after


def read_string(buffer: Buffer, position: int, end: int, limit: int) -> tuple[Buffer, int]:
    """Read a string of at most `limit` bytes."""
    start = position + 8
    if start > end:
        raise NeedMoreData(start)
    length: int = U64.unpack_from(buffer, position)[0]
    if length > limit:
        raise RemoteError(f"{length} bytes are too long, at most {limit} are allowed")
    stop = start + length
    after = stop + (-length & 7)
    if after > end:
        raise NeedMoreData(after)
    if length & 7 and buffer[stop:after] != _ZEROS[length & 7]:
        raise RemoteError("non-zero padding")
    return buffer[start:stop], after


def write_string(value: bytes, parts: list[bytes]) -> None:
    """Append a string's length, bytes and padding."""
    length = len(value)
    parts += (U64.pack(length), value, _ZEROS[length & 7])


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer of at most 64 or 32 bits."""

    bits: int

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[int, int]:
        """Read the integer."""
        return (read_u32 if self.bits == 32 else read_u64)(buffer, position, end)

    def write(self, value: int, parts: list[bytes]) -> None:
        """Append the integer."""
        parts.append(U64.pack(value))


@dataclass(frozen=True, slots=True)
class Boolean:
    """A truth value; any integer but 0 is true, as the C++ daemon has it."""

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[bool, int]:
        """Read the truth value."""
        value, after = read_u32(buffer, position, end)
        return value != 0, after

    def write(self, value: bool, parts: list[bytes]) -> None:  # noqa: FBT001 - this is the value
        """Append the truth value."""
        parts.append(U64.pack(value))


@dataclass(frozen=True, slots=True)
class Contents:
    """Bytes that may be anything."""

    limit: int

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[bytes, int]:
        """Read the bytes."""
        value, after = read_string(buffer, position, end, self.limit)
        return bytes(value), after

    def write(self, value: bytes, parts: list[bytes]) -> None:
        """Append the bytes."""
        write_string(value, parts)


@dataclass(frozen=True, slots=True)
class Text:
    """Text in UTF-8; other bytes survive as lone surrogates, as in Python's file names."""

    limit: int = MAX_TEXT

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[str, int]:
        """Read the text."""
        value, after = read_string(buffer, position, end, self.limit)
        return str(value, "utf-8", "surrogateescape"), after

    def write(self, value: str, parts: list[bytes]) -> None:
        """Append the text."""
        write_string(value.encode("utf-8", "surrogateescape"), parts)


@dataclass(frozen=True, slots=True)
class Choice(Generic[E]):
    """An integer that must be a member of an enumeration."""

    type: type[E]

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[E, int]:
        """Read the member."""
        value, after = read_u32(buffer, position, end)
        try:
            return self.type(value), after
        except ValueError as error:
            raise RemoteError(f"{value} is not known") from error

    def write(self, value: E, parts: list[bytes]) -> None:
        """Append the member's number."""
        parts.append(U64.pack(value.value))


@dataclass(frozen=True, slots=True)
class Optional(Generic[T]):
    """A flag, and a value if it is set."""

    kind: Kind[T]

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[T | None, int]:
        """Read the flag and what follows it."""
        present, after = read_u32(buffer, position, end)
        return self.kind.read(buffer, after, end) if present else (None, after)

    def write(self, value: T | None, parts: list[bytes]) -> None:
        """Append the flag and the value."""
        parts.append(U64.pack(value is not None))
        if value is not None:
            self.kind.write(value, parts)


@dataclass(frozen=True, slots=True)
class Many(Generic[T]):
    """A list of at most `limit` values of one kind."""

    item: Kind[T]
    limit: int = MAX_ITEMS

    def read_count(self, buffer: Buffer, position: int, end: int) -> tuple[int, int]:
        """Read how many items follow."""
        count, after = read_u64(buffer, position, end)
        if count > self.limit:
            raise RemoteError(f"{count} items are too many, at most {self.limit} are allowed")
        return count, after

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[tuple[T, ...], int]:
        """Read all items, which must be at hand."""
        count, position = self.read_count(buffer, position, end)
        items, read = [], self.item.read
        for _ in range(count):
            item, position = read(buffer, position, end)
            items.append(item)
        return tuple(items), position

    def write(self, value: Sequence[T], parts: list[bytes]) -> None:
        """Append the count and the items."""
        parts.append(U64.pack(len(value)))
        write = self.item.write
        for item in value:
            write(item, parts)


@dataclass(frozen=True, slots=True)
class Record(Generic[T]):
    """Values in a row that make one object; `attributes` are those written, in order."""

    make: Callable[..., T]
    attributes: tuple[tuple[str, Kind[Any]], ...]

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[T, int]:
        """Read each value, and make the object."""
        values = {}
        for name, kind in self.attributes:
            values[name], position = kind.read(buffer, position, end)
        return self.make(**values), position

    def write(self, value: T, parts: list[bytes]) -> None:
        """Append each value."""
        for name, kind in self.attributes:
            kind.write(getattr(value, name), parts)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts in a row."""

    def read(self, buffer: Buffer, position: int, end: int) -> tuple[tuple[str, str], int]:
        """Read both."""
        first, position = TEXT.read(buffer, position, end)
        second, position = TEXT.read(buffer, position, end)
        return (first, second), position

    def write(self, value: tuple[str, str], parts: list[bytes]) -> None:
        """Append both."""
        TEXT.write(value[0], parts)
        TEXT.write(value[1], parts)


U32_KIND = Integer(32)
U64_KIND = Integer(64)
BOOLEAN = Boolean()
TEXT = Text()
TEXTS = Many(TEXT)
