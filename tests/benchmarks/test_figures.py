# SPDX-License-Identifier: GPL-3.0-or-later
"""The arithmetic of the benchmarks: ratios, goals and how they are shown."""

import pytest

from tests.benchmarks.figures import Against, Figure, Goal, Series, Unit
from tests.benchmarks.rounds import take_turns
from tests.benchmarks.table import as_data, as_text


def figure(series: Series, *goals: Goal) -> Figure:
    """Make a figure in seconds."""
    return Figure("work", "nothing", Unit.SECONDS, series, goals)


def test_a_ratio_is_that_of_the_median_round_not_of_the_medians() -> None:
    """A round that is slow for everybody does not change the ratio."""
    assert Series([2.0, 20.0, 2.0], floor=[1.0, 10.0, 1.0]).ratio == 2.0


def test_a_goal_against_the_floor_needs_one() -> None:
    """Without a floor there is no verdict."""
    assert figure(Series([1.0]), Goal(2.0)).met is None
    assert figure(Series([1.0], floor=[0.6]), Goal(2.0)).met is True
    assert figure(Series([1.0], floor=[0.4]), Goal(2.0)).met is False


def test_goals_against_a_peer_and_against_nothing() -> None:
    """A missing peer leaves a goal open; a missed goal outweighs an open one."""
    peer, absolute = Goal(1.0, Against.PEER), Goal(0.5, Against.NOTHING)
    assert figure(Series([1.0], peer=[2.0]), peer).met is True
    assert figure(Series([1.0]), peer).met is None
    assert figure(Series([1.0]), peer, absolute).met is False
    assert figure(Series([0.5]), absolute).met is True


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        (Unit.SECONDS, 0.0000123, "12.3 µs"),
        (Unit.SECONDS, 0.0045, "4.50 ms"),
        (Unit.SECONDS, 123.4, "123 s"),
        (Unit.SECONDS, 0.0, "0.00 µs"),
        (Unit.BYTES, -2048.0, "-2.00 KiB"),
        (Unit.BYTES, 64 * 2.0**20, "64.0 MiB"),
    ],
)
def test_values_are_shown_in_the_largest_step_they_reach(
    unit: Unit, value: float, shown: str
) -> None:
    """Three digits, whatever the size."""
    assert unit.show(value) == shown


def test_contestants_take_turns_and_the_first_round_does_not_count() -> None:
    """The order within a round is always the same."""
    turns: list[str] = []

    def contestant(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    series = take_turns(2, lambda: contestant("ours"), floor=lambda: contestant("floor"))
    assert turns == ["floor", "ours"] * 3
    assert (series.floor, series.ours, series.peer) == ([3.0, 5.0], [4.0, 6.0], [])


def test_the_table_and_the_data_tell_the_verdict() -> None:
    """A missed goal stands out."""
    missed = figure(Series([3.0], floor=[1.0]), Goal(2.0))
    assert "3.00 x  ≤ 2 x floor  NO" in as_text([missed])
    assert as_data([missed])[0]["met"] is False
