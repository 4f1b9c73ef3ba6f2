# SPDX-License-Identifier: GPL-3.0-or-later
"""The syntax of derivation files: one term whose fields are strings and lists.

A term such as ``Derive(["a","b"],"c",[("d","e")])`` is read in two steps that
both run in compiled code: its strings are cut out, which leaves a *skeleton*
(``Derive([",","],",[(",")])``, one quote for each string), and the skeleton is
matched field by field. What the strings mean is left to `store.derivations`.
Enter through `read_term`, `quote` and `write_list`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from store.errors import DerivationError

# Backslashes come first, so that those of the other escapes are not escaped again.
_ESCAPES: Final = (("\\", r"\\"), ('"', r"\""), ("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t"))
_UNKNOWN_ESCAPE = re.compile(r"\\(?![nrt])")

# Escaped backslashes and quotes are set aside while strings are cut at quotes. A
# NUL has no place in a term otherwise, and two characters keep all offsets right.
_BACKSLASH, _QUOTE = "\0b", "\0q"
_EXCERPT = 24


@dataclass(frozen=True, slots=True)
class Field:
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


def read_term(text: str, constructor: str, shapes: Sequence[Shape]) -> list[Field]:
    """Read a term of known shape.

    Args:
        text: The whole text; nothing may follow the term.
        constructor: The word before the parenthesis.
        shapes: The shapes of the fields.

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
    spans, (reached, expected) = _match_fields(skeleton, constructor, shapes)
    if expected:
        before = strings[: skeleton.count('"', 0, reached)]
        raise _fault(text, reached + sum(len(string) + 1 for string in before), expected)
    if "\\" in text:
        strings = _unescape(text, marked, strings)
    return _cut(skeleton, strings, spans)


def quote(string: str) -> str:
    """Return a string with quotes and escapes."""
    for plain, escaped in _ESCAPES:
        string = string.replace(plain, escaped)
    return f'"{string}"'


def write_list(items: Iterable[str]) -> str:
    """Return items, already written, as a list."""
    return f"[{','.join(items)}]"


def _match_fields(
    skeleton: str, constructor: str, shapes: Sequence[Shape]
) -> tuple[list[tuple[int, int]], tuple[int, str]]:
    """Return the fields' spans, how far the skeleton is right, and what is missing there."""
    spans: list[tuple[int, int]] = []
    position, separator = 0, f"{constructor}("
    for shape in shapes:
        if not skeleton.startswith(separator, position):
            return spans, (position, f"`{separator}'")
        position += len(separator)
        match = shape.whole.match(skeleton, position)
        if match is None:
            start = shape.start.match(skeleton, position)
            return spans, (start.end() if start else position, shape.what)
        spans.append(match.span())
        position, separator = match.end(), ","
    if skeleton[position:] != ")":
        return spans, (position, "`)' and the end")
    return spans, (len(skeleton), "")


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


def _cut(skeleton: str, strings: Sequence[str], spans: Iterable[tuple[int, int]]) -> list[Field]:
    fields, used = [], 0
    for start, end in spans:
        part = skeleton[start:end]
        count = part.count('"')
        fields.append(Field(strings[used : used + count], part))
        used += count
    return fields


def _fault(text: str, position: int, expected: str) -> DerivationError:
    offset = len(text[:position].encode("utf-8", "surrogateescape"))
    found = text[position : position + _EXCERPT]
    excerpt = repr(found) if found else "the end"
    return DerivationError(f"expected {expected} at byte {offset}, not {excerpt}")
