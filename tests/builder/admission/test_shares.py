# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is, by weight."""

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.admission.shares import Standing, Turns, in_turn


def play(capacity: int, weights: dict[str, int], rounds: int) -> Counter[str]:
    """Give out slots to users who always want more, the longest taken ending first."""
    turns, running, granted = Turns(), deque[str](), Counter[str]()
    next_turn = {user: turns.first(weight) for user, weight in weights.items()}
    for _ in range(rounds):
        if len(running) == capacity:
            running.popleft()
        standings = {
            user: Standing(running.count(user), weights[user], turn)
            for user, turn in next_turn.items()
        }
        user = in_turn(capacity, standings)[0]
        next_turn[user] = turns.after(next_turn.pop(user), weights[user])
        running.append(user)
        granted[user] += 1
    return granted


@pytest.mark.parametrize("capacity", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("weights", [{"a": 3, "b": 1}, {"a": 1, "b": 1}, {"a": 10, "b": 1, "c": 1}])
def test_slots_are_given_out_by_weight(capacity: int, weights: dict[str, int]):
    """Whatever their number, and nobody gets none."""
    total = sum(weights.values())
    granted = play(capacity, weights, total * 70)
    for user, weight in weights.items():
        assert abs(granted[user] - weight * 70) <= max(capacity, 0.1 * weight * 70), granted


@given(
    st.integers(0, 9),
    st.dictionaries(
        st.integers(),
        st.builds(Standing, st.integers(0, 9), st.just(1), st.none() | st.floats(0, 9)),
    ),
)
def test_of_equals_those_with_fewest_come_first(capacity: int, standings: dict[int, Standing]):
    """And only those who wait."""
    found = in_turn(capacity, standings)
    held = [standings[user].held for user in found]  # type: ignore[index]
    assert held == sorted(held)
    assert set(found) == {user for user, each in standings.items() if each.turn is not None}
