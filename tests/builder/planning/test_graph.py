# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be built next, and what cannot be built any more."""

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from builder.planning.graph import BuildGraph, State
from store.paths import StoreDirectory, StorePath

if TYPE_CHECKING:
    from tests.builder.conftest import MakePath

STORE = StoreDirectory("/gnu/store")


def item(number: int) -> StorePath:
    """Return the path of a numbered derivation."""
    return STORE.join(f"{number:032d}-node.drv")


def graph_of(edges: dict[int, set[int]]) -> BuildGraph:
    """Return the settled graph in which each key needs the derivations in its value."""
    graph = BuildGraph()
    for number in edges:
        graph.add(item(number), None)
    for number, needed in edges.items():
        for each in needed:
            graph.connect(item(number), item(each))
    graph.settle()
    return graph


def test_only_nodes_without_inputs_are_ready_at_first():
    """A dependent becomes ready with the last of its inputs."""
    graph = graph_of({0: set(), 1: set(), 2: {0, 1}})
    assert [node.path for node in graph.take_ready()] == [item(0), item(1)]
    graph.succeeded(item(0))
    assert graph.take_ready() == []
    graph.succeeded(item(1))
    assert [node.path for node in graph.take_ready()] == [item(2)]


def test_ready_nodes_come_in_the_order_of_their_names(path: "MakePath"):
    """Users see builds start by name, whatever the hashes are."""
    graph = BuildGraph()
    for name in ("zebra.drv", "ant.drv", "mule.drv"):
        graph.add(path(name), None)
    graph.settle()
    names = [node.path.rpartition("-")[2] for node in graph.take_ready()]
    assert names == ["ant.drv", "mule.drv", "zebra.drv"]


def test_a_failure_gives_up_all_dependents_at_once():
    """Without keep-going, nothing that needs a failed derivation is waited for."""
    graph = graph_of({0: set(), 1: set(), 2: {0, 1}, 3: {2}})
    graph.take_ready()
    given_up = graph.failed(item(0), at_once=True)
    assert [node.path for node in given_up] == [item(2), item(3)]


def test_with_keep_going_a_dependent_is_given_up_when_its_other_inputs_are_done():
    """The count of failed inputs is complete when the dependent is given up."""
    graph = graph_of({0: set(), 1: set(), 2: {0, 1}})
    graph.take_ready()
    assert graph.failed(item(0), at_once=False) == []
    [given_up] = graph.succeeded(item(1))
    assert given_up.path == item(2)
    assert given_up.failed_inputs == 1
    assert graph.take_ready() == []


def test_a_cycle_is_found_and_names_a_member():
    """A derivation that needs itself, however indirectly, would be waited for without end."""
    assert graph_of({0: set(), 1: {0, 2}, 2: {1}}).cycle() in {item(1), item(2)}
    assert graph_of({0: set(), 1: {0}}).cycle() is None


@st.composite
def acyclic(draw: st.DrawFn) -> dict[int, set[int]]:
    """Draw graphs whose edges point to smaller numbers."""
    size = draw(st.integers(1, 12))
    return {
        number: draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else set()
        for number in range(size)
    }


@given(acyclic(), st.sets(st.integers(0, 11)), st.booleans())
def test_every_node_is_built_once_after_its_inputs_or_given_up(
    edges: dict[int, set[int]], failing: set[int], at_once: bool
):
    """Whatever fails, the graph runs dry, and only what depends on a failure is given up."""
    graph = graph_of(edges)
    built: list[StorePath] = []
    while ready := graph.take_ready():
        for node in ready:
            number = int(node.path.rpartition("/")[2][:32])
            assert all(item(each) in built for each in edges[number])
            if number in failing:
                graph.failed(node.path, at_once=at_once)
            else:
                built.append(node.path)
                graph.succeeded(node.path)
    assert len(built) == len(set(built))
    assert list(graph.unfinished()) == []
    doomed = set(failing & edges.keys())
    for number in sorted(edges):
        if edges[number] & doomed:
            doomed.add(number)
    states = {number: graph[item(number)].state for number in edges}
    assert {number for number, state in states.items() if state is State.FAILED} == doomed
