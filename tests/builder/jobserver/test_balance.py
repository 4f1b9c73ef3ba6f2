# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets which tokens."""

from hypothesis import given
from hypothesis import strategies as st

from builder.jobserver.balance import Standing, balance, owing

STANDINGS = st.lists(
    st.builds(Standing, st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=6
)


@given(st.integers(-9, 9), STANDINGS)
def test_what_is_spread_is_what_there_is(free: int, builds: list[Standing]):
    """Nothing is made and nothing lost, but for what is owed to builds that start."""
    wanted = balance(free, builds)
    assert min(wanted, default=0) >= 0
    spare = free + sum(build.unread for build in builds)
    assert sum(wanted) == (max(0, spare) if builds else 0)
    assert max(wanted, default=0) - min(wanted, default=0) <= 1


@given(st.integers(0, 9), STANDINGS)
def test_what_is_balanced_stays(free: int, builds: list[Standing]):
    """As long as nobody reads anything, nothing is moved twice."""
    wanted = balance(free, builds)
    after = [
        Standing(build.used, count, resting=build.resting)
        for build, count in zip(builds, wanted, strict=True)
    ]
    idle = [each for each in after if not each.hungry]
    assert len(idle) < len(after) or balance(0, after) == wanted


def test_a_lone_build_gets_all():
    """Nobody else could use it."""
    assert balance(7, [Standing(0, 0)]) == [7]
    assert balance(3, [Standing(2, 2)]) == [5]


def test_the_last_token_goes_to_who_may_be_waiting_and_has_least():
    """Rather than to who has left it lying, or was asked a moment ago."""
    assert balance(0, [Standing(0, 1), Standing(4, 0)]) == [0, 1]
    assert balance(1, [Standing(3, 0), Standing(1, 0)]) == [0, 1]
    assert balance(1, [Standing(3, 0), Standing(0, 0, resting=True)]) == [1, 0]


def test_builds_that_start_have_theirs_first():
    """What lies unread is taken back for them."""
    assert balance(-2, [Standing(0, 1), Standing(0, 2)]) == [1, 0]


def test_those_who_have_two_more_owe_one():
    """One more is no reason: the next would be owed back."""
    assert owing([Standing(2, 0), Standing(0, 0)], starting=False) == [0]
    assert owing([Standing(1, 0), Standing(0, 0)], starting=False) == []
    assert owing([Standing(9, 0), Standing(0, 0, resting=True)], starting=False) == []
    assert owing([Standing(9, 0), Standing(0, 1), Standing(0, 0)], starting=False) == []


def test_whoever_has_any_owes_one_to_a_build_that_starts():
    """It has none at all."""
    assert owing([Standing(1, 0), Standing(0, 0), Standing(3, 0)], starting=True) == [0, 2]
