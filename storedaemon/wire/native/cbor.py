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

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP = range(6)


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


def _simple_lengths() -> tuple[int, ...]:
    """Give, by its first byte, the length of each item whose first byte tells it; otherwise 0."""
    lengths = [0] * 256
    for major in (_UNSIGNED, _NEGATIVE):
        for info in range(28):
            lengths[major << 5 | info] = 1 if info < 24 else 1 + (1 << (info - 24))
    for major in (_BYTES, _TEXT):
        for info in range(24):
            lengths[major << 5 | info] = 1 + info
    lengths[0xF4:0xF7] = 1, 1, 1  # false, true, null
    lengths[0xF9:0xFC] = 3, 5, 9  # floats
    return tuple(lengths)


_LENGTHS = _simple_lengths()
_SHORTEST_TEXT, _LONGEST_SHORT_TEXT = 0x60, 0x77


class _Check:
    """One walk over the bytes of an item.

    A string may lead the walk beyond the end of the bytes; then either the next
    look at a byte fails, or the walk does not end where the bytes do.
    """

    __slots__ = ("data", "depth", "items", "length")

    def __init__(self, data: bytes, limits: ItemLimits) -> None:
        self.data = data
        self.length = len(data)
        self.items = limits.items
        self.depth = limits.depth

    def run(self) -> None:
        try:
            end = self.item(0)
        except IndexError:
            end = self.length + 1
        if end > self.length:
            raise FaultError("malformed-cbor", "the item is cut short")
        if end < self.length:
            raise self.fault(end, f"{self.length - end} bytes after the item")

    def item(self, position: int) -> int:
        """Check the item at a position; give the position after it."""
        return position + (_LENGTHS[self.data[position]] or self.long_item(position))

    def long_item(self, position: int) -> int:
        """Check an item whose first byte does not tell its length; give the length."""
        major = self.data[position] >> 5
        count, start = self.head(position)
        if major in (_BYTES, _TEXT):
            return start + count - position
        if major not in (_ARRAY, _MAP):
            raise self.fault(position, "a tag, or a value other than false, true and null")
        self.enter(position, count if major == _ARRAY else 2 * count)
        end = self.elements(start, count) if major == _ARRAY else self.pairs(start, count)
        self.depth += 1
        return end - position

    def head(self, position: int) -> tuple[int, int]:
        """Read an item's argument; give it, and the position after it."""
        info = self.data[position] & 31
        if info < 24:
            return info, position + 1
        if info > 27:
            raise self.fault(position, "an indefinite length or a reserved form")
        end = position + 1 + (1 << (info - 24))
        return int.from_bytes(self.data[position + 1 : end], "big"), end

    def enter(self, position: int, items: int) -> None:
        self.depth -= 1
        self.items -= items
        if self.depth < 0:
            raise self.fault(position, "containers nested too deep")
        # Each item takes a byte at least, so a longer count is a lie that need not be walked.
        if self.items < 0 or items > self.length - position:
            raise self.fault(position, f"a container that announces {items} items")

    def elements(self, position: int, count: int) -> int:
        data = self.data
        for _ in range(count):
            position += _LENGTHS[data[position]] or self.long_item(position)
        return position

    def pairs(self, position: int, count: int) -> int:
        data = self.data
        keys = set()
        for _ in range(count):
            start, position = self.key(position)
            keys.add(data[start:position])
            position += _LENGTHS[data[position]] or self.long_item(position)
        if len(keys) != count:
            raise self.fault(position, "a map key that occurs twice")
        return position

    def key(self, position: int) -> tuple[int, int]:
        """Give where the text of a key begins and ends."""
        first = self.data[position]
        if _SHORTEST_TEXT <= first <= _LONGEST_SHORT_TEXT:
            return position + 1, position + 1 + first - _SHORTEST_TEXT
        if first >> 5 != _TEXT:
            raise self.fault(position, "a map key that is not text")
        count, start = self.head(position)
        return start, start + count

    def fault(self, position: int, what: str) -> FaultError:
        return FaultError("malformed-cbor", f"at byte {position} of the item: {what}")


def as_map(value: Any) -> dict[str, Any]:
    """Return a decoded item that has to be a map.

    Raises:
        FaultError: It is something else.
    """
    if not isinstance(value, dict):
        raise FaultError("malformed-message", "a message that is not a map")
    return cast("dict[str, Any]", value)
