# SPDX-License-Identifier: GPL-3.0-or-later
"""Base 32 as store paths and hashes write it.

The digits are ``0-9a-z`` without e, o, t and u. The bytes are one little-endian
number, written with its most significant digit first, so that neither the
alphabet nor the order is that of RFC 4648. Enter through `encode` and `decode`.
"""

import re

from store.errors import InvalidHashError

ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"

# Ten bits, so two digits, are converted at a time.
_PAIRS = tuple(high + low for high in ALPHABET for low in ALPHABET)
_DIGITS = re.compile(f"[{ALPHABET}]*")
_TO_PYTHON = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")


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
    digits = encoded_length(len(data))
    number = int.from_bytes(data, "little")
    shifts = range((digits + 1) // 2 * 10 - 10, -1, -10)
    pairs = [_PAIRS[number >> shift & 1023] for shift in shifts]
    return "".join(pairs)[-digits:] if digits else ""


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
