# SPDX-License-Identifier: GPL-3.0-or-later

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import aterm
from store.errors import DerivationError

SHAPE = aterm.term_shape(
    "T",
    aterm.list_shape("a list of words", '"'),
    aterm.string_shape("a string"),
    aterm.list_shape("a pair", r'\(","\)'),
)

# Text as `bytes.decode(…, "surrogateescape")` can make it, NUL excepted.
STRINGS = st.binary(max_size=20).map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
TRICKY = st.text(alphabet='"\\nrtbq,[]()\n\r\t', max_size=12)


def write(words: list[str], string: str, pairs: list[tuple[str, str]]) -> str:
    """Write a term of `SHAPE`."""
    fields = (
        aterm.write_list(map(aterm.quote, words)),
        aterm.quote(string),
        aterm.write_list(f"({aterm.quote(a)},{aterm.quote(b)})" for a, b in pairs),
    )
    return f"T({','.join(fields)})"


@given(
    st.lists(STRINGS | TRICKY, max_size=4),
    STRINGS | TRICKY,
    st.lists(st.tuples(STRINGS | TRICKY, TRICKY), max_size=4),
)
def test_what_is_written_is_read_back(words: list[str], string: str, pairs: list[tuple[str, str]]):
    """Any strings survive, above all those that look like syntax or escapes."""
    text = write(words, string, pairs)
    first, second, third = aterm.read_term(text, SHAPE)
    assert list(first.strings) == words
    assert list(second.strings) == [string]
    assert list(third.strings) == [part for pair in pairs for part in pair]


@pytest.mark.parametrize(
    ("string", "quoted"),
    [
        ("", '""'),
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("\\n", r'"\\n"'),
        ("a\nb\rc\td", r'"a\nb\rc\td"'),
        ("é\x7f\x01", '"é\x7f\x01"'),
    ],
)
def test_exactly_five_characters_are_escaped(string: str, quoted: str):
    """The reference daemon escapes these and no others; hashes depend on it."""
    assert aterm.quote(string) == quoted


@pytest.mark.parametrize(
    ("text", "expected", "offset"),
    [
        ("", "`T('", 0),
        ("U", "`T('", 0),
        ("T", "`T('", 0),
        ("T(", "a list of words", 2),
        ('T["a"]', "`T('", 0),
        ('T("a","b",[])', "a list of words", 2),
        ('T(["a""b"],"c",[])', "a list of words", 3),
        ('T(["a",],"c",[])', "a list of words", 7),
        ('T(["a"] ,"c",[])', "`,'", 7),
        ('T(["a"],["c"],[])', "a string", 8),
        ('T(["a"],"c",[("x","y"),("x")])', "a pair", 23),
        ('T(["a"],"c",[("x","y")]', "`)' and the end", 23),
        ('T(["a"],"c",[]))', "`)' and the end", 14),
        ('T(["a"],"c",[])\n', "`)' and the end", 14),
        ('T(["a"],"c",[],"d")', "`)' and the end", 14),
        ('T(["a"],"c', "a string that ends", 8),
        ('T(["a"],"c\\', "a string that ends", 8),
        ('T(["a"],"c\\"', "a string that ends", 8),
        (r'T(["a"],"c\x",[])', "an escape that has a meaning", 10),
        (r'T(["\\","\0"],"c",[])', "an escape that has a meaning", 9),
        (r'T(["é\a"],"c",[])', "an escape that has a meaning", 6),
        ('T(["a"],\\n"c",[])', "a string", 8),
        ('T(["a\0"],"c",[])', "any character but NUL", 5),
        ('T(["\\\\é"],"c",["x"])', "a pair", 16),
    ],
)
def test_malformed_text_is_refused_where_it_goes_wrong(text: str, expected: str, offset: int):
    """The message says what was expected and at which byte."""
    with pytest.raises(DerivationError) as caught:
        aterm.read_term(text, SHAPE)
    assert f"expected {expected} at byte {offset}, not " in str(caught.value)


@given(st.text(alphabet='T([",])\\n\0x', max_size=30))
def test_any_text_is_a_term_or_an_error(text: str):
    """Nothing else comes out, and what is accepted is spelt in exactly one way."""
    try:
        words, string, pairs = aterm.read_term(text, SHAPE)
    except DerivationError:
        return
    grouped = list(zip(pairs.strings[::2], pairs.strings[1::2], strict=True))
    assert write(list(words.strings), string.strings[0], grouped).replace(
        "\n", "\\n"
    ) == text.replace("\n", "\\n")


@pytest.mark.parametrize(
    "text",
    [
        '"' * 400_001,
        'T(["' + '\\"' * 200_000,
        "T([" + '"a",' * 100_000,
        'T([],"c",[' + '("a","b"),' * 50_000,
        "T(" + "[" * 400_000,
    ],
)
def test_hostile_text_costs_no_more_than_its_length(text: str):
    """Neither unended strings nor endless lists make the reader start over."""
    start = time.process_time()
    with pytest.raises(DerivationError):
        aterm.read_term(text, SHAPE)
    assert time.process_time() - start < 2
