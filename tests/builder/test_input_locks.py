# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of tokens, which are released a run at a time."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from builder.input_locks import runs
from locker.batches import BATCH


@given(st.sets(st.integers(0, 50)))
def test_runs_are_the_numbers_again(numbers: set[int]):
    """As few as there can be."""
    found = list(runs(numbers))
    assert {n for first, count in found for n in range(first, first + count)} == numbers
    assert all(a + n < b for (a, n), (b, _) in pairwise(found))


def test_long_runs_are_cut():
    """To what the locker takes in one message."""
    assert list(runs(range(300))) == [(0, BATCH), (BATCH, BATCH), (2 * BATCH, 300 - 2 * BATCH)]
