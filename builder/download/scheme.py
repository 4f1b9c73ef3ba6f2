# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading data as Scheme writes it: strings, symbols, booleans and lists of them.

Nothing is evaluated. Entry point: `read`.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_TEXT = 4 * 1024 * 1024
MAX_DEPTH = 64


class Symbol(NamedTuple):
    """A symbol, or anything else that stands for itself, such as a number."""

    name: str


Datum = str | bool | Symbol | list["Datum"]


class SchemeError(ValueError):
    """The text is no datum that is understood here."""


_TOKEN = re.compile(
    r"""\s+ | ;[^\n]*
      | (?P<open>[(\[]) | (?P<close>[)\]]) | (?P<quote>')
      | "(?P<string>(?:[^"\\]|\\.)*)"
      | (?P<atom>[^\s()\[\]"';`,]+)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "0": "\0"}
_BOOLEANS = {"#t": True, "#true": True, "#f": False, "#false": False}
_HEXADECIMAL = re.compile(r"\\x([0-9a-fA-F]{1,6});|\\(.)", re.DOTALL)


def read(text: str) -> Datum:
    """Read the first datum of a text.

    Raises:
        SchemeError: There is none, or it is malformed, too long or too deep.
    """
    if len(text) > MAX_TEXT:
        raise SchemeError(f"a text of {len(text)} characters")
    open_lists: list[list[Datum]] = []
    for kind, value in _tokens(text):
        if kind == "open":
            if len(open_lists) >= MAX_DEPTH:
                raise SchemeError("lists are nested too deeply")
            open_lists.append([])
            continue
        if kind == "close" and not open_lists:
            raise SchemeError("a parenthesis closes nothing")
        datum = open_lists.pop() if kind == "close" else _atom(kind, value)
        if not open_lists:
            return datum
        open_lists[-1].append(datum)
    raise SchemeError("the text ends within a list" if open_lists else "there is nothing to read")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise SchemeError(f"`{text[position : position + 20]}' makes no sense")
        position = match.end()
        # A quote before a datum changes nothing for who only reads it.
        if match.lastgroup and match.lastgroup != "quote":
            yield match.lastgroup, match[match.lastgroup]


def _atom(kind: str, value: str) -> Datum:
    if kind == "string":
        return _HEXADECIMAL.sub(_unescape, value)
    return _BOOLEANS[value] if value in _BOOLEANS else Symbol(value)


def _unescape(match: re.Match[str]) -> str:
    digits, letter = match.groups()
    if digits is None:
        return _ESCAPES.get(letter, letter)
    try:
        return chr(int(digits, 16))
    except ValueError as error:
        raise SchemeError(f"no character has the number {digits}") from error
