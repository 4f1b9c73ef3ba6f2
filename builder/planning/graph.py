# SPDX-License-Identifier: GPL-3.0-or-later
"""What one request still has to have made, and what of it can be made next. Pure.

A graph holds derivations whose outputs are missing, and items that are to be
substituted. It is filled by the planner, which knows the store, and then asked
and told: `take_ready` names what can be made, `succeeded` and `failed` say how
it went and return what follows. Some nodes have to be looked at again when
their inputs are done, before it is clear what becomes of them; the planner
takes those with `take_undecided`, and may add to the graph at any time.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from builder.options import BuildMode
from builder.substitution.offers import Offer
from store.derivations import Derivation
from store.paths import StorePath, name_of


class State(Enum):
    """How far a node is."""

    NEW = auto()
    WAITING = auto()
    READY = auto()
    TAKEN = auto()
    DONE = auto()
    FAILED = auto()


class Stage(Enum):
    """What the inputs of a node are for, and so what happens when they are done.

    MENDING: They repair what the node's outputs refer to; it is looked at again likewise.
    SUBSTITUTING: Each may make the node unnecessary; it is looked at again even if some failed.
    RETRYING: They are needed to build, but also make its substitutes usable; it is looked at again.
    MAKING: They are needed, and then it is made.
    """

    MENDING = auto()
    SUBSTITUTING = auto()
    RETRYING = auto()
    MAKING = auto()


# Tuples, since looking something up in a set hashes it, and members hash slowly.
OVER = (State.DONE, State.FAILED)
REVISITED = (Stage.MENDING, Stage.SUBSTITUTING)
"""Stages after which a node may turn out to need nothing."""


class Substitute(NamedTuple):
    """The key of an item that is to be substituted; a derivation's is its path."""

    path: StorePath


Key = StorePath | Substitute


@dataclass(slots=True)
class Node:
    """Something to be made, and its place in the graph.

    `path` is the derivation or the item. `inputs` are those nodes that are not done
    yet; `dependents` are the nodes that have this one among their inputs. `outputs`
    are those wanted of a derivation, none for all.
    """

    key: Key
    derivation: Derivation | None = None
    mode: BuildMode = BuildMode.NORMAL
    offer: Offer | None = None
    stage: Stage = Stage.MAKING
    outputs: frozenset[str] = frozenset()
    inputs: set[Key] = field(default_factory=set)
    dependents: set[Key] = field(default_factory=set)
    state: State = State.NEW
    failed_inputs: int = 0
    path: StorePath = field(init=False)

    def __post_init__(self) -> None:
        self.path = path_of(self.key)


def path_of(key: Key) -> StorePath:
    """Return the derivation or the item that a key stands for."""
    return key.path if isinstance(key, Substitute) else key


def turn(key: Key) -> tuple[bool, str, str]:
    """Return a sorting key: substitutes, then derivations, each by name, as Guix users know it."""
    path = path_of(key)
    return not isinstance(key, Substitute), name_of(path), path


class BuildGraph:
    """What a request still needs."""

    def __init__(self) -> None:
        self._nodes: dict[Key, Node] = {}
        self._new: list[Node] = []
        self._ready: list[Node] = []
        self._undecided: list[Node] = []
        self._fresh: list[Node] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: Key) -> bool:
        return key in self._nodes

    def __getitem__(self, key: Key) -> Node:
        return self._nodes[key]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    @property
    def has_undecided(self) -> bool:
        """Whether there are nodes to be looked at again."""
        return bool(self._undecided)

    def get(self, key: Key) -> Node | None:
        """Return a node, if there is one."""
        return self._nodes.get(key)

    def add(
        self,
        key: Key,
        derivation: Derivation | None = None,
        mode: BuildMode = BuildMode.NORMAL,
        offer: Offer | None = None,
    ) -> Node:
        """Add what has to be made, or, with None, a derivation that cannot be read.

        A node that was there is taken up again, for those who depend on it still do.
        """
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(key, derivation, mode, offer)
        else:
            node.derivation, node.mode, node.offer = derivation, mode, offer
            node.state, node.stage, node.failed_inputs = State.NEW, Stage.MAKING, 0
            node.inputs.clear()
        self._new.append(node)
        self._fresh.append(node)
        return node

    def connect(self, key: Key, needed: Key) -> None:
        """State that `key`, which is new, can only be made after `needed`."""
        self._nodes[key].inputs.add(needed)
        self._nodes[needed].dependents.add(key)

    def settle(self, *, at_once: bool = False) -> list[Node]:
        """Find what is ready, once all new nodes and connections are there.

        Returns:
            Those given up at once, for what they need has failed already.
        """
        new, self._new = self._new, []
        for node in new:
            if node.state is State.NEW:
                node.state = State.WAITING
        given_up: list[Node] = []
        for node in new:
            if node.state is not State.WAITING:
                continue
            for needed in tuple(node.inputs):
                self._note(node, self._nodes[needed])
            if self._advance(node, at_once=at_once):
                given_up.append(node)
                given_up += self._spread(node, at_once=at_once)
        return given_up

    def cycle(self) -> StorePath | None:
        """Return something that depends on itself, or None.

        Store paths are hashes of what they name, so a cycle takes a forged
        derivation; but it must not make a request wait for ever.
        """
        left = {key: len(node.inputs) for key, node in self._nodes.items()}
        free = [key for key, count in left.items() if count == 0]
        while free:
            node = self._nodes[free.pop()]
            for dependent in node.dependents:
                # One that was taken up again may have other inputs than before.
                if node.key in self._nodes[dependent].inputs:
                    left[dependent] -= 1
                    if left[dependent] == 0:
                        free.append(dependent)
        key = min((key for key, count in left.items() if count), default=None, key=turn)
        return None if key is None else path_of(key)

    def take_fresh(self) -> list[Node]:
        """Return the nodes that were added, or taken up again, since this was asked last."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def take_ready(self) -> list[Node]:
        """Return the nodes that can be made now, in their order; each is returned once."""
        return _taken(self._ready)

    def take_undecided(self) -> list[Node]:
        """Return the nodes that have to be looked at again; each is returned once."""
        return _taken(self._undecided)

    def succeeded(self, key: Key) -> list[Node]:
        """Note that `key` is made, and return what is given up now that nothing else is awaited.

        A dependent with another, failed input is given up when its last input
        is done, unless it was at once.
        """
        return self._conclude(key, State.DONE, at_once=False)

    def failed(self, key: Key, *, at_once: bool) -> list[Node]:
        """Note that `key` cannot be made, and return what is given up because of it.

        Args:
            key: The node that failed.
            at_once: Whether a dependent is given up with its first failed input,
                or only when all its other inputs are done too.
        """
        return self._conclude(key, State.FAILED, at_once=at_once)

    def unfinished(self) -> Iterable[Node]:
        """Return the nodes that neither succeeded nor failed."""
        return [n for n in self._nodes.values() if n.state not in OVER]

    def _conclude(self, key: Key, state: State, *, at_once: bool) -> list[Node]:
        node = self._nodes[key]
        node.state = state
        return self._spread(node, at_once=at_once)

    def _spread(self, node: Node, *, at_once: bool) -> list[Node]:
        """Let the dependents of a finished node know; return those that are given up."""
        given_up: list[Node] = []
        queue = deque([node])
        while queue:
            done = queue.popleft()
            for dependent in self._waiting_for(done):
                self._note(dependent, done)
                if self._advance(dependent, at_once=at_once):
                    given_up.append(dependent)
                    queue.append(dependent)
        return given_up

    def _waiting_for(self, node: Node) -> list[Node]:
        dependents = [self._nodes[key] for key in node.dependents]
        return _in_turn([each for each in dependents if each.state is State.WAITING])

    def _note(self, node: Node, needed: Node) -> None:
        if needed.state in OVER and needed.key in node.inputs:
            node.inputs.discard(needed.key)
            node.failed_inputs += needed.state is State.FAILED

    def _advance(self, node: Node, *, at_once: bool) -> bool:
        """Find out what a waiting node waits for; tell whether it is given up."""
        hopeless = bool(node.failed_inputs) and (at_once or not node.inputs)
        if hopeless and node.stage not in REVISITED:
            node.state = State.FAILED
            return True
        if hopeless or not node.inputs:
            node.state = State.READY
            (self._ready if node.stage is Stage.MAKING else self._undecided).append(node)
        return False


def _taken(nodes: list[Node]) -> list[Node]:
    # Some may have been given up after they became ready.
    taken = _in_turn([node for node in nodes if node.state is State.READY])
    nodes.clear()
    for node in taken:
        node.state = State.TAKEN
    return taken


def _in_turn(nodes: list[Node]) -> list[Node]:
    if len(nodes) > 1:  # most often there is one
        nodes.sort(key=lambda node: turn(node.key))
    return nodes
