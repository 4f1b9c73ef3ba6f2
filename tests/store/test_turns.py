# SPDX-License-Identifier: GPL-3.0-or-later
"""Large work that gives way to others."""

import json
import threading

import trio
from hypothesis import given
from hypothesis import strategies as st

from store import turns
from store.turns import json_list, portions


def test_portions_are_all_there_is_in_order():
    """And none is longer than a portion, or empty."""
    things = range(2 * turns.PORTION + 1)
    found = list(portions(things))
    assert [len(portion) for portion in found] == [turns.PORTION, turns.PORTION, 1]
    assert [thing for portion in found for thing in portion] == list(things)


@given(st.lists(st.text() | st.integers(), max_size=20))
def test_a_list_is_written_as_json_would(things: list[object]):
    """Whatever is in it."""
    assert json.loads(json_list(things)) == things


def test_a_long_list_is_written_as_json_would():
    """The seams between portions do not show."""
    things = [f"{number}" for number in range(3 * turns.PORTION)]
    assert json.loads(json_list(things)) == things


async def test_much_work_is_done_by_a_thread():
    """Little work is done here and now."""
    here = threading.get_ident()
    assert await turns.run(threading.get_ident, much=False) == here
    assert await turns.run(threading.get_ident, much=True) != here
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await turns.run(threading.get_ident, much=False) == here
