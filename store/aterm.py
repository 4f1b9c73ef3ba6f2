# SPDX-License-Identifier: GPL-3.0-or-later
"""The syntax of derivation files: one term whose fields are strings and lists.

A term such as ``Derive(["a","b"],"c",[("d","e")])`` is read in two steps that
both run in compiled code: its strings are cut out, which leaves a *skeleton*
(``Derive([",","],",[(",")])``, one quote for each string), and the skeleton is
matched; where it does not match, it is looked at field by field to say why. What
the strings mean is left to `store.derivations`. Enter through `read_term`, `quote`
and `write_list`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from store.errors import DerivationError

# Backslashes come first, so that those of the other escapes are not escaped again.
_ESCAPES: Final = (("\\", r"\\"), ('"', r"\""), ("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t"))
_UNKNOWN_ESCAPE = re.compile(r"\\(?![nrt])")

# Escaped backslashes and quotes are set aside while strings are cut at quotes. A
# NUL has no place in a term otherwise, and two characters keep all offsets right.
_BACKSLASH, _QUOTE = "\0b", "\0q"
_EXCERPT = 24


class Field(NamedTuple):
    """One field of a term that was read.

    Attributes:
        strings: All its strings, unescaped, in order.
        skeleton: Its text with each string replaced by one quote.
    """

    strings: Sequence[str]
    skeleton: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What a field must look like.

    Attributes:
        what: What the field holds, for messages.
        whole: Matches the skeleton of the field.
        start: Matches as much of a wrong one as is right, to say where it goes wrong.
    """

    what: str
    whole: re.Pattern[str]
    start: re.Pattern[str]


def string_shape(what: str) -> Shape:
    """Describe a field that is one string."""
    return Shape(what, re.compile('"'), re.compile(""))


def list_shape(what: str, item: str) -> Shape:
    """Describe a field that is a list of any length.

    Args:
        what: What it holds, for messages.
        item: A regular expression for the skeleton of one item, without captures.
    """
    whole = re.compile(rf"\[(?:(?:{item})(?:,(?:{item}))*+)?\]")
    return Shape(what, whole, re.compile(rf"(?:\[(?:(?:{item}),)*+)?"))


@dataclass(frozen=True, slots=True)
class TermShape:
    """What a term must look like.

    Attributes:
        constructor: The word before the parenthesis.
        fields: The shapes of the fields.
        whole: Matches the skeleton of the term; each field is a group.
    """

    constructor: str
    fields: tuple[Shape, ...]
    whole: re.Pattern[str]


def term_shape(constructor: str, *fields: Shape) -> TermShape:
    """Describe a term."""
    groups = ",".join(f"({field.whole.pattern})" for field in fields)
    return TermShape(constructor, fields, re.compile(rf"{constructor}\({groups}\)"))


def read_term(text: str, shape: TermShape) -> list[Field]:
    """Read a term of known shape.

    Args:
        text: The whole text; nothing may follow the term.
        shape: What it must look like.

    Returns:
        The fields, in order.

    Raises:
        DerivationError: The text has another form; names what was expected where.
    """
    if "\0" in text:
        raise _fault(text, text.index("\0"), "any character but NUL")
    marked = text.replace(r"\\", _BACKSLASH).replace(r"\"", _QUOTE)
    pieces = marked.split('"')
    strings, gaps = pieces[1::2], pieces[::2]
    if len(strings) == len(gaps):
        raise _fault(text, marked.rindex('"'), "a string that ends")
    skeleton = '"'.join(gaps)
    match = shape.whole.fullmatch(skeleton)
    if match is None:
        reached, expected = _first_fault(skeleton, shape)
        before = strings[: skeleton.count('"', 0, reached)]
        raise _fault(text, reached + sum(len(string) + 1 for string in before), expected)
    if "\\" in text:
        strings = _unescape(text, marked, strings)
    return _cut(strings, match.groups())


def quote(string: str) -> str:
    """Return a string with quotes and escapes."""
    for plain, escaped in _ESCAPES:
        string = string.replace(plain, escaped)
    return f'"{string}"'


def write_list(items: Iterable[str]) -> str:
    """Return items, already written, as a list."""
    return f"[{','.join(items)}]"


def _first_fault(skeleton: str, shape: TermShape) -> tuple[int, str]:
    """Return how far a skeleton is right that does not match, and what is missing there."""
    position, separator = 0, f"{shape.constructor}("
    for field in shape.fields:
        if not skeleton.startswith(separator, position):
            return position, f"`{separator}'"
        position += len(separator)
        match = field.whole.match(skeleton, position)
        if match is None:
            start = field.start.match(skeleton, position)
            return start.end() if start else position, field.what
        position, separator = match.end(), ","
    return position, "`)' and the end"


def _unescape(text: str, marked: str, strings: list[str]) -> list[str]:
    unknown = _UNKNOWN_ESCAPE.search(marked)
    if unknown:
        raise _fault(text, unknown.start(), "an escape that has a meaning")
    return [
        _unescape_string(string) if "\\" in string or "\0" in string else string
        for string in strings
    ]


def _unescape_string(string: str) -> str:
    string = string.replace(r"\n", "\n").replace(r"\r", "\r").replace(r"\t", "\t")
    return string.replace(_BACKSLASH, "\\").replace(_QUOTE, '"')


def _cut(strings: Sequence[str], parts: Iterable[str]) -> list[Field]:
    fields, used = [], 0
    for part in parts:
        end = used + part.count('"')
        fields.append(Field(strings[used:end], part))
        used = end
    return fields


def _fault(text: str, position: int, expected: str) -> DerivationError:
    offset = len(text[:position].encode("utf-8", "surrogateescape"))
    found = text[position : position + _EXCERPT]
    excerpt = repr(found) if found else "the end"
    return DerivationError(f"expected {expected} at byte {offset}, not {excerpt}")
