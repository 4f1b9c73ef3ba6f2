# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference scanner against one that looks at each offset."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import base32
from store.references import ReferenceScanner, find_references

LETTERS = base32.ALPHABET
CANDIDATES = tuple("".join(random.Random(seed).choices(LETTERS, k=32)) for seed in range(40))
# Pieces that together make near misses, matches at any offset and dense base-32 text.
PIECES = st.one_of(
    st.sampled_from(CANDIDATES[:8]).map(str.encode),
    st.tuples(st.sampled_from(CANDIDATES), st.integers(0, 32), st.integers(0, 32)).map(
        lambda cut: cut[0][min(cut[1:]) : max(cut[1:])].encode()
    ),
    st.binary(max_size=40),
    st.text(LETTERS, max_size=300).map(str.encode),
    st.integers(0, 2000).map(lambda size: b"\0" * size),
)


def naive(data: bytes, candidates: tuple[str, ...]) -> set[str]:
    """Look at each offset."""
    return {candidate for candidate in candidates if candidate.encode() in data}


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 6000), max_size=6))
def test_the_same_is_found_as_at_each_offset(pieces: list[bytes], cuts: list[int]):
    """However the data is split, and whichever of the ways of looking is taken."""
    data = b"".join(pieces)
    scanner = ReferenceScanner(CANDIDATES)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(bounds):
        scanner.feed(data[start:end])
    assert scanner.found == naive(data, CANDIDATES)


@pytest.mark.parametrize("filler", [b"\0", b"0", b"/", "é".encode()])
@pytest.mark.parametrize("offset", range(9))
def test_alignment_does_not_matter(filler: bytes, offset: int):
    """A candidate is found at each offset, amid letters of the alphabet and others."""
    data = filler * 4000 + b"!" * offset + CANDIDATES[0].encode() + filler * 4000
    assert find_references(data, CANDIDATES) == {CANDIDATES[0]}


def test_byte_by_byte_is_as_good_as_at_once():
    """The scanner remembers what may be the beginning of a hash part."""
    scanner = ReferenceScanner(CANDIDATES)
    for byte in b"xx" + CANDIDATES[3].encode() + b"yy":
        scanner.feed(bytes([byte]))
    assert scanner.found == {CANDIDATES[3]}


def test_base32_text_is_searched_as_well():
    """Long runs of the alphabet hide nothing."""
    rng = random.Random(7)
    noise = "".join(rng.choices(LETTERS, k=20_000))
    data = (noise + CANDIDATES[5] + noise + CANDIDATES[6] + noise).encode()
    found = find_references(data, CANDIDATES)
    assert found == naive(data, CANDIDATES) >= {CANDIDATES[5], CANDIDATES[6]}


def test_candidates_that_share_words_are_told_apart():
    """One that was found does not hide another with the same beginning."""
    first, second = "0" * 32, "0" * 31 + "1"
    noise = "".join(random.Random(3).choices(LETTERS, k=5000))
    data = (noise + "z" + first + "z" + noise + second).encode()
    assert find_references(data, [first, second]) == {first, second}


def test_nothing_is_found_without_candidates():
    """And nothing is looked for."""
    assert find_references(b"0" * 1000, []) == frozenset()
