# SPDX-License-Identifier: GPL-3.0-or-later
"""Strict CBOR: an item is checked in one pass over its bytes, and only then decoded.

The check refuses whatever the protocol does not use (tags, indefinite lengths,
undefined, simple values, map keys that are not text or occur twice, bytes after
the item) and whatever would cost more memory than its bytes (too many items, too
deep). What is left means the same to every decoder, and decoding it allocates a
bounded multiple of its length: a frame of 1 MiB of empty maps would otherwise
become 70 MiB of objects.
"""

from dataclasses import dataclass
from typing import Any, cast

import cbor2

from storedaemon.wire.native.faults import FaultError

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_SIMPLE_VALUES = frozenset({20, 21, 22})  # false, true, null
_FIRST_FLOAT, _LAST_FLOAT = 25, 27


@dataclass(frozen=True, slots=True)
class ItemLimits:
    """Bounds on one CBOR item: all data items in it, and containers inside each other."""

    items: int = 65_536
    depth: int = 8


def encode(value: Any) -> bytes:
    """Encode a value made of maps with text keys, lists, text, bytes and numbers."""
    return cbor2.dumps(value)


def decode(data: bytes, limits: ItemLimits) -> Any:
    """Decode exactly one item.

    Raises:
        FaultError: The bytes are not one CBOR item of the kind the protocol uses.
    """
    _Check(data, limits).run()
    try:
        return cbor2.loads(data)
    except cbor2.CBORDecodeError as error:
        # Only what the check leaves to the decoder: text that is not UTF-8.
        raise FaultError("malformed-cbor", f"text that is not UTF-8 ({error})") from error


class _Check:
    """One walk over the bytes of an item."""

    __slots__ = ("data", "depth", "items", "length", "position")

    def __init__(self, data: bytes, limits: ItemLimits) -> None:
        self.data = data
        self.length = len(data)
        self.position = 0
        self.items = limits.items
        self.depth = limits.depth

    def run(self) -> None:
        self.item()
        if self.position != self.length:
            raise self.fault(f"{self.length - self.position} bytes after the item")

    def item(self) -> None:
        major, argument = self.head()
        if major in (_BYTES, _TEXT):
            self.skip(argument)
        elif major in (_ARRAY, _MAP):
            self.enter(argument if major == _ARRAY else 2 * argument)
            if major == _ARRAY:
                for _ in range(argument):
                    self.item()
            else:
                self.pairs(argument)
            self.depth += 1

    def head(self) -> tuple[int, int]:
        """Read an item's first bytes: its major type and its argument."""
        if self.position >= self.length:
            raise self.fault("the item is cut short")
        initial = self.data[self.position]
        self.position += 1
        major, argument = initial >> 5, initial & 31
        if argument >= 24:
            argument = self.long_argument(argument)
        if major > _MAP:
            self.check_special(initial)
        return major, argument

    def long_argument(self, info: int) -> int:
        if info > 27:
            raise self.fault("an indefinite length or a reserved form")
        start, width = self.position, 1 << (info - 24)
        self.skip(width)
        return int.from_bytes(self.data[start : start + width], "big")

    def check_special(self, initial: int) -> None:
        info = initial & 31
        if initial >> 5 == _TAG:
            raise self.fault("a tag")
        if info not in _SIMPLE_VALUES and not _FIRST_FLOAT <= info <= _LAST_FLOAT:
            raise self.fault("a simple value other than false, true and null")

    def skip(self, count: int) -> None:
        if count > self.length - self.position:
            raise self.fault(f"{count} bytes announced, {self.length - self.position} there")
        self.position += count

    def enter(self, items: int) -> None:
        self.depth -= 1
        self.items -= items
        if self.depth < 0:
            raise self.fault("containers nested too deep")
        # Each item takes a byte at least, so a longer count is a lie that need not be walked.
        if self.items < 0 or items > self.length - self.position:
            raise self.fault(f"a container that announces {items} items")

    def pairs(self, count: int) -> None:
        keys = set()
        for _ in range(count):
            major, argument = self.head()
            if major != _TEXT:
                raise self.fault("a map key that is not text")
            start = self.position
            self.skip(argument)
            keys.add(self.data[start : self.position])
            self.item()
        if len(keys) != count:
            raise self.fault("a map key that occurs twice")

    def fault(self, what: str) -> FaultError:
        return FaultError("malformed-cbor", f"at byte {self.position} of the item: {what}")


def as_map(value: Any) -> dict[str, Any]:
    """Return a decoded item that has to be a map.

    Raises:
        FaultError: It is something else.
    """
    if not isinstance(value, dict):
        raise FaultError("malformed-message", "a message that is not a map")
    return cast("dict[str, Any]", value)
