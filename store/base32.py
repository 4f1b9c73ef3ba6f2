# SPDX-License-Identifier: GPL-3.0-or-later
"""Base 32 as store paths and hashes write it.

The digits are ``0-9a-z`` without e, o, t and u. The bytes are one little-endian
number, written with its most significant digit first, so that neither the
alphabet nor the order is that of RFC 4648. Enter through `encode` and `decode`.
"""

import re

from store.errors import InvalidHashError

ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"

_DIGITS = re.compile(f"[{ALPHABET}]*")
_FROM_VALUES = ALPHABET.encode().ljust(256)
_TO_PYTHON = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")


# So many bytes are 32 digits, and no bit more.
_WHOLE = 20


def _spread(half: int) -> tuple[int, int]:
    """Say how to move digits apart that stand at five bits each, twice `half` of them at a time.

    Returns:
        A mask of the upper halves, and what to add them times, so that each begins
        `half` bytes above the lower one.
    """
    upper = ((1 << 5 * half) - 1) << 5 * half
    return sum(upper << 8 * at for at in range(0, 32, 2 * half)), (1 << 3 * half) - 1


_SPREADS = tuple(map(_spread, (16, 8, 4, 2, 1)))


def encoded_length(size: int) -> int:
    """Return the number of digits that `size` bytes take."""
    return (size * 8 + 4) // 5


def encode(data: bytes) -> str:
    """Write bytes in base 32.

    Args:
        data: Any number of bytes.

    Returns:
        ``encoded_length(len(data))`` digits.
    """
    if len(data) > _WHOLE:
        return encode(data[_WHOLE:]) + encode(data[:_WHOLE])
    number = int.from_bytes(data, "little")
    for mask, times in _SPREADS:
        number += (number & mask) * times
    # Every byte has the value of one digit now.
    return number.to_bytes(encoded_length(len(data)), "big").translate(_FROM_VALUES).decode()


def decode(text: str) -> bytes:
    """Read base 32.

    Args:
        text: Digits as `encode` writes them.

    Returns:
        The bytes; ``encode`` of them is `text` again.

    Raises:
        InvalidHashError: For a foreign digit, a length that no number of bytes
            has, or bits set beyond the last byte.
    """
    size = len(text) * 5 // 8
    if _DIGITS.fullmatch(text) is None or encoded_length(size) != len(text):
        raise InvalidHashError(f"invalid base-32 hash '{text}'")
    try:
        return int(text.translate(_TO_PYTHON) or "0", 32).to_bytes(size, "little")
    except OverflowError as error:
        raise InvalidHashError(
            f"invalid base-32 hash '{text}': bits are set beyond its last byte"
        ) from error
