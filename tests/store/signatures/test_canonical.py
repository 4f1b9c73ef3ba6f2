# SPDX-License-Identifier: GPL-3.0-or-later
"""S-expressions in canonical form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import StoreError
from store.signatures import canonical
from store.signatures.gcrypt import Gcrypt, Spelling

EXPRESSIONS = st.recursive(
    st.binary(max_size=12), lambda inner: st.lists(inner, max_size=4), max_leaves=20
)


@given(EXPRESSIONS)
def test_what_is_written_is_read_again(expression: canonical.Expression):
    """Any bytes, any nesting."""
    assert canonical.parse(canonical.encode(expression)) == expression


@given(st.lists(EXPRESSIONS.filter(bool), min_size=1, max_size=3))
def test_libgcrypt_reads_it_alike(expressions: list[canonical.Expression]):
    """Its own canonical form of the same expression has the same bytes."""
    data = canonical.encode([b"list", *expressions])
    if b"0:" not in data and b"()" not in data:
        gcrypt = Gcrypt.load()
        assert gcrypt.respell(data, Spelling.CANONICAL) == data
        assert gcrypt.respell(gcrypt.respell(data, Spelling.ADVANCED), Spelling.CANONICAL) == data


@given(st.binary(max_size=40) | st.text("():0123456789a", max_size=20).map(str.encode))
def test_anything_else_is_refused(data: bytes):
    """Either it is what would be written, but for zeros before a length, or an error."""
    try:
        expression = canonical.parse(data)
    except StoreError:
        return
    assert len(canonical.encode(expression)) <= len(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not one whole"),
        (b"(", "not one whole"),
        (b"()()", "not one whole"),
        (b")", "too many"),
        (b"5:abc", "too early"),
        (b"x", "length is expected"),
        (b"9999999999:x", "length is expected"),
        (b"(" * 40 + b")" * 40, "too deep"),
    ],
)
def test_the_error_says_what_is_wrong(data: bytes, what: str):
    """And where."""
    with pytest.raises(StoreError, match=what):
        canonical.parse(data)
