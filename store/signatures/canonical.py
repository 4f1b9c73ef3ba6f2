# SPDX-License-Identifier: GPL-3.0-or-later
"""S-expressions in canonical form, as nested lists of byte strings; pure.

Canonical is what libgcrypt writes for programs: ``(3:foo(3:bar1:x))``. There is
one way to write each expression, so equal ones have equal bytes. People's
spellings are libgcrypt's business.
"""

from typing import TypeAlias

from store.errors import StoreError

Expression: TypeAlias = "bytes | list[Expression]"

MAX_DEPTH = 32
"""Lists within each other; a key in an access-control list lies 5 deep."""

_MAX_DIGITS = 9


def parse(data: bytes) -> Expression:
    """Read one expression, and nothing behind it.

    Raises:
        StoreError: These bytes are no canonical expression.
    """
    root: list[Expression] = []
    stack = [root]
    position = 0
    while position < len(data):
        if data[position : position + 1] == b"(":
            inner: list[Expression] = []
            stack[-1].append(inner)
            stack.append(inner)
            if len(stack) > MAX_DEPTH:
                raise _bad("it nests too deep", position)
            position += 1
        elif data[position : position + 1] == b")":
            stack.pop()
            if not stack:
                raise _bad("a closing parenthesis too many", position)
            position += 1
        else:
            octets, position = _octets(data, position)
            stack[-1].append(octets)
    if len(stack) != 1 or len(root) != 1:
        raise _bad("it is not one whole expression", position)
    return root[0]


def encode(expression: Expression) -> bytes:
    """Write an expression."""
    if isinstance(expression, bytes):
        return b"%d:%s" % (len(expression), expression)
    return b"(" + b"".join(map(encode, expression)) + b")"


def _octets(data: bytes, position: int) -> tuple[bytes, int]:
    colon = data.find(b":", position, position + _MAX_DIGITS + 1)
    digits = data[position:colon]
    if colon < 0 or not digits.isdigit():
        raise _bad("a length is expected", position)
    start = colon + 1
    end = start + int(digits)
    if end > len(data):
        raise _bad("it ends too early", position)
    return data[start:end], end


def _bad(what: str, position: int) -> StoreError:
    return StoreError(f"bad s-expression: {what} (byte {position})", reason="invalid-expression")
