# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders of deletion, whatever garbage looks like."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from store.collection.order import deletion_order, unused_since, with_referrers
from store.database.garbage import Edges, Garbage


@st.composite
def garbages(draw: st.DrawFn) -> Garbage:
    """Items that refer to lower ones."""
    count = draw(st.integers(0, 12))
    targets = [
        sorted(draw(st.sets(st.integers(0, number - 1)))) if number else []
        for number in range(count)
    ]
    times = [draw(st.integers(0, 5)) for _ in range(count)]
    starts = array("q", [0])
    for each in targets:
        starts.append(starts[-1] + len(each))
    edges = Edges(starts, array("q", [t for each in targets for t in each]))
    none = Edges(array("q", bytes(8 * (count + 1))), array("q"))
    return Garbage(array("q", range(count)), array("q", times), array("q", times), edges, none)


def referrers_of(garbage: Garbage, number: int) -> set[int]:
    """Give all that refer to an item, however remotely, by brute force."""
    direct = {n for n in range(len(garbage.ids)) if number in garbage.references.of(n)}
    return direct.union(*(referrers_of(garbage, each) for each in direct))


@given(garbages())
def test_referrers_go_first_and_the_longest_unused_before_others(garbage: Garbage):
    """An item was used last when whatever refers to it was."""
    order = deletion_order(garbage)
    assert sorted(order.numbers) == list(range(len(garbage.ids)))
    used = [order.used[number] for number in order.numbers]
    assert used == sorted(used)
    for place, number in enumerate(order.numbers):
        above = referrers_of(garbage, number)
        assert above <= set(order.numbers[:place])
        assert order.used[number] == max(garbage.times[n] for n in (number, *above))


@given(garbages(), st.integers(0, 6), st.sets(st.integers(0, 11)))
def test_what_goes_takes_its_referrers_along(garbage: Garbage, time: int, wanted: set[int]):
    """Whether it is chosen by age or by name."""
    order = deletion_order(garbage)
    chosen = {number for number in wanted if number < len(garbage.ids)}
    expected = chosen.union(*(referrers_of(garbage, number) for number in chosen))
    found = with_referrers(garbage, order, chosen)
    assert found == [number for number in order.numbers if number in expected]
    old = unused_since(order, time)
    assert all(referrers_of(garbage, number) <= set(old) for number in old)
