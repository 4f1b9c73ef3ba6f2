# SPDX-License-Identifier: GPL-3.0-or-later
"""Which items can be had, compared with a plain definition of it."""

from hypothesis import given
from hypothesis import strategies as st

from builder.substitution.closures import OfferBook
from builder.substitution.offers import Offer
from store.paths import StoreDirectory, StorePath

STORE = StoreDirectory("/gnu/store")
NUMBERS = st.integers(0, 11)


def item(number: int) -> StorePath:
    """Return the path of a numbered item."""
    return STORE.join(f"{number:032d}-item")


def learn_all(
    offered: dict[int, set[int]], valid: set[int], wanted: set[int]
) -> tuple[OfferBook, int]:
    """Ask until nothing is unknown; return what was learned, and in how many questions."""
    book, questions = OfferBook(), 0
    offers = {
        item(n): Offer(item(n), None, frozenset(map(item, refs)), 0, 0)
        for n, refs in offered.items()
    }
    book.want(map(item, wanted))
    while book.unknown:
        asked = frozenset(book.unknown)
        book.learn(asked, {path: offers[path] for path in asked if path in offers})
        book.note_valid(book.unchecked & set(map(item, valid)))
        questions += 1
    return book, questions


def naive(offered: dict[int, set[int]], valid: set[int]) -> set[int]:
    """Return what can be had: all that is left when nothing more can be added."""
    found: set[int] = set()
    while True:
        new = {n for n, refs in offered.items() if refs <= found | valid | {n}} - found
        if not new:
            return found
        found |= new


@given(
    st.dictionaries(NUMBERS, st.sets(NUMBERS, max_size=4)),
    st.sets(NUMBERS, max_size=4),
    st.sets(NUMBERS, max_size=4),
)
def test_what_can_be_had_is_what_the_definition_says(
    offered: dict[int, set[int]], valid: set[int], wanted: set[int]
):
    """For everything that was asked for; circles cannot be had, self-references can."""
    book, _ = learn_all(offered, valid, wanted)
    assert set(map(item, wanted)) <= book.offers.keys()
    asked = {number for number in range(12) if item(number) in book.offers}
    assert book.obtainable() == set(map(item, naive(offered, valid) & asked))


def test_the_number_of_questions_is_the_depth():
    """A thousand items above a thousand others take two."""
    offered = {n: {n + 1000} for n in range(1000)} | {n: set() for n in range(1000, 2000)}
    book, questions = learn_all(offered, set(), set(range(1000)))
    assert questions == 2
    assert len(book.obtainable()) == 2000


def test_what_failed_cannot_be_had_and_neither_what_needs_it():
    """Until it is valid, and everything is checked again."""
    book, _ = learn_all({1: {2}, 2: set()}, set(), {1})
    book.failed.add(item(2))
    assert book.lacks([item(2)])
    assert book.obtainable() == frozenset()
    book.forget()
    book.note_valid([item(2)])
    assert book.obtainable() == {item(1)}
