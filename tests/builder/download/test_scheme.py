# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading data as Scheme writes it."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.download.scheme import Datum, SchemeError, Symbol, read

SYMBOLS = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True).map(Symbol)
DATA = st.recursive(
    st.text(max_size=12) | st.booleans() | SYMBOLS, lambda inner: st.lists(inner, max_size=4)
)


def _write(datum: Datum) -> str:
    match datum:
        case bool():
            return "#t" if datum else "#f"
        case Symbol(name):
            return name
        case str():
            quoted = datum.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{quoted}"'
        case _:
            return f"({' '.join(map(_write, datum))})"


@settings(max_examples=60)
@given(DATA)
def test_what_is_written_is_read(datum: Datum):
    """Every datum survives, whatever its strings hold."""
    assert read(_write(datum)) == datum


@settings(max_examples=100)
@given(st.text(alphabet="()\"'; \\abx#t1\n", max_size=30))
def test_nothing_but_an_error_comes_of_nonsense(text: str):
    """A derivation's text is anybody's."""
    with suppress(SchemeError):
        read(text)


def test_mirrors_as_guix_writes_them():
    """An association list, perhaps quoted, with comments."""
    text = """;; mirrors
    '((gnu "https://a/" "ftp://b") (savannah))"""
    assert read(text) == [[Symbol("gnu"), "https://a/", "ftp://b"], [Symbol("savannah")]]


def test_escapes():
    """Those of Scheme's strings."""
    assert read(r'"a\n\"\\\x41;"') == 'a\n"\\A'
    assert read(json.dumps("http://x/é", ensure_ascii=False)) == "http://x/é"


@pytest.mark.parametrize("text", ["", "(", ")", "(" * 100, '"', "`x", r'"\xffffff;"'])
def test_malformed_texts_are_refused(text: str):
    """Too deep, cut off, or of what is not data."""
    with pytest.raises(SchemeError):
        read(text)
