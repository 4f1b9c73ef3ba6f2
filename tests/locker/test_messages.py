# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon and the locker say: bounds that hold before anything is sent."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locker.messages import MAX_BATCH, ReleaseLocks, releases


@given(st.sets(st.integers(0, 50)), st.booleans())
def test_releases_name_each_token_once(tokens: set[int], deleted: bool):
    """In as few messages as there can be."""
    found = list(releases(tokens, deleted=deleted))
    assert {t for each in found for t in range(each.first, each.first + each.count)} == tokens
    assert all(a.first + a.count < b.first for a, b in pairwise(found))
    assert all(each.deleted == deleted for each in found)


def test_long_runs_are_cut():
    """To what the locker takes in one message."""
    found = [(each.first, each.count) for each in releases(range(2 * MAX_BATCH + 1))]
    assert found == [(0, MAX_BATCH), (MAX_BATCH, MAX_BATCH), (2 * MAX_BATCH, 1)]


@pytest.mark.parametrize("count", [-1, 0, MAX_BATCH + 1])
def test_whoever_asks_for_too_much_gets_an_error(count: int):
    """Here and now, rather than that the locker ends."""
    with pytest.raises(ValueError, match="a range of"):
        ReleaseLocks(0, count, deleted=False)
