# SPDX-License-Identifier: GPL-3.0-or-later
"""What one request still has to have built, and what of it can be built next. Pure.

A graph holds the derivations whose outputs are missing. It is filled by the
planner, which knows the store, and then asked and told: `ready` names what can
be built, `succeeded` and `failed` say how it went and return what follows.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from builder.options import BuildMode
from store.derivations import Derivation
from store.paths import StorePath, name_of


class State(Enum):
    """How far a node is."""

    WAITING = auto()
    READY = auto()
    TAKEN = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(slots=True)
class Node:
    """A derivation to be built, and its place in the graph.

    `inputs` are those nodes that are not built yet; `dependents` are the nodes
    that have this one among their inputs.
    """

    path: StorePath
    derivation: Derivation | None
    mode: BuildMode = BuildMode.NORMAL
    inputs: set[StorePath] = field(default_factory=set)
    dependents: set[StorePath] = field(default_factory=set)
    state: State = State.WAITING
    failed_inputs: int = 0


def turn(path: StorePath) -> tuple[str, str]:
    """Return the sorting key of a derivation: by name, then by path, as Guix users know it."""
    return name_of(path), path


class BuildGraph:
    """The derivations that a request still needs."""

    def __init__(self) -> None:
        self._nodes: dict[StorePath, Node] = {}
        self._ready: list[StorePath] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, path: StorePath) -> bool:
        return path in self._nodes

    def __getitem__(self, path: StorePath) -> Node:
        return self._nodes[path]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def add(
        self,
        path: StorePath,
        derivation: Derivation | None,
        mode: BuildMode = BuildMode.NORMAL,
    ) -> Node:
        """Add a derivation that has to be built, or, with None, one that cannot be read."""
        node = Node(path, derivation, mode)
        self._nodes[path] = node
        return node

    def connect(self, path: StorePath, needed: StorePath) -> None:
        """State that `path` can only be built after `needed`."""
        self._nodes[path].inputs.add(needed)
        self._nodes[needed].dependents.add(path)

    def settle(self) -> None:
        """Find what is ready, once all nodes and connections are there."""
        for node in self._nodes.values():
            self._make_ready_if_free(node)

    def cycle(self) -> StorePath | None:
        """Return a derivation that depends on itself, or None.

        Store paths are hashes of what they name, so a cycle takes a forged
        derivation; but it must not make a request wait for ever.
        """
        left = {path: len(node.inputs) for path, node in self._nodes.items()}
        free = [path for path, count in left.items() if count == 0]
        while free:
            for dependent in self._nodes[free.pop()].dependents:
                left[dependent] -= 1
                if left[dependent] == 0:
                    free.append(dependent)
        return min((path for path, count in left.items() if count), default=None, key=turn)

    def take_ready(self) -> list[Node]:
        """Return the nodes that can be built now, in their order; each is returned once."""
        taken = [self._nodes[path] for path in sorted(self._ready, key=turn)]
        self._ready.clear()
        for node in taken:
            node.state = State.TAKEN
        return taken

    def succeeded(self, path: StorePath) -> list[Node]:
        """Note that `path` is built, and return what is given up now that nothing else is awaited.

        A dependent with another, failed input is given up when its last input
        is done, unless it was at once.
        """
        return self._conclude(path, State.DONE, at_once=False)

    def failed(self, path: StorePath, *, at_once: bool) -> list[Node]:
        """Note that `path` cannot be built, and return what is given up because of it.

        Args:
            path: The node that failed.
            at_once: Whether a dependent is given up with its first failed input,
                or only when all its other inputs are done too.
        """
        return self._conclude(path, State.FAILED, at_once=at_once)

    def unfinished(self) -> Iterable[Node]:
        """Return the nodes that neither succeeded nor failed."""
        return [n for n in self._nodes.values() if n.state not in {State.DONE, State.FAILED}]

    def _conclude(self, path: StorePath, state: State, *, at_once: bool) -> list[Node]:
        self._nodes[path].state = state
        given_up: list[Node] = []
        queue = deque([self._nodes[path]])
        while queue:
            done = queue.popleft()
            for dependent in self._waiting_for(done):
                dependent.inputs.discard(done.path)
                dependent.failed_inputs += done.state is State.FAILED
                if dependent.failed_inputs and (at_once or not dependent.inputs):
                    dependent.state = State.FAILED
                    given_up.append(dependent)
                    queue.append(dependent)
                else:
                    self._make_ready_if_free(dependent)
        return given_up

    def _waiting_for(self, node: Node) -> list[Node]:
        dependents = (self._nodes[path] for path in sorted(node.dependents, key=turn))
        return [dependent for dependent in dependents if dependent.state is State.WAITING]

    def _make_ready_if_free(self, node: Node) -> None:
        if node.state is State.WAITING and not node.inputs:
            node.state = State.READY
            self._ready.append(node.path)
