# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a client asks for to the graph of what has to be built for it.

Outputs that are valid are not looked behind: a request for something that is
there costs one query an output. The walk is iterative and gives way to other
tasks, so that a request for ten thousand derivations delays nobody.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import trio

from builder.errors import BuildError
from builder.events import FailureKind
from builder.graph import BuildGraph
from builder.options import BuildMode
from store.derivations import Derivation
from store.errors import StoreError
from store.paths import StoreDirectory, StorePath, is_derivation

GIVE_WAY_EVERY = 32
"""Derivations looked at between two checkpoints: a few milliseconds of work."""


class Validity(Protocol):
    """The one thing the planner asks the database."""

    def is_valid(self, path: StorePath) -> bool:
        """Tell whether an item is registered."""


class Roots(Protocol):
    """What keeps items from being collected as garbage while a client works with them."""

    def add(self, *paths: StorePath) -> Awaitable[None]:
        """Keep items, valid or not; waits while a collection is going on."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that a client wants: an item, or outputs of a derivation (none named: all)."""

    path: StorePath
    outputs: frozenset[str] = frozenset()


@dataclass(slots=True)
class Plan:
    """What a request needs.

    Attributes:
        targets: The items asked for, in order.
        graph: The derivations to build.
        problems: Derivations of the graph, and other targets, that are known
            beforehand not to be had, and why.
    """

    targets: tuple[StorePath, ...]
    graph: BuildGraph = field(default_factory=BuildGraph)
    problems: dict[StorePath, BuildError] = field(default_factory=dict)


def parse_target(text: str, directory: StoreDirectory) -> Target:
    """Read ``PATH`` or ``PATH!OUTPUT,OUTPUT``.

    Raises:
        InvalidPathError: The path is none.
    """
    path, _, names = text.partition("!")
    return Target(directory.parse(path), frozenset(filter(None, names.split(","))))


class Planner:
    """Makes plans.

    Args:
        database: Says what is valid.
        derivation: Returns the derivation of a valid item.
    """

    def __init__(self, database: Validity, derivation: Callable[[StorePath], Derivation]) -> None:
        self._database = database
        self._derivation = derivation

    async def plan(self, targets: Iterable[Target], mode: BuildMode, roots: Roots) -> Plan:
        """Return the plan for a request; all that it speaks of is added to `roots`."""
        wanted = tuple(targets)
        plan = Plan(tuple(target.path for target in wanted))
        walk = _Walk(plan, self._database, self._derivation, roots)
        pending = [_Step(target, mode) for target in reversed(wanted)]
        for visited in count(1):
            if not pending:
                break
            pending.extend(await walk.visit(pending.pop()))
            if visited % GIVE_WAY_EVERY == 0:
                await trio.lowlevel.checkpoint()
        _refuse_cycle(plan)
        plan.graph.settle()
        return plan


def _refuse_cycle(plan: Plan) -> None:
    path = plan.graph.cycle()
    if path is not None:
        raise BuildError(
            f"derivation `{path}' depends on its own outputs", FailureKind.INPUT_REJECTED
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """Something to look at, and the derivation that needs it, if one does."""

    target: Target
    mode: BuildMode
    dependent: StorePath | None = None


@dataclass(frozen=True, slots=True)
class _Walk:
    plan: Plan
    database: Validity
    derivation: Callable[[StorePath], Derivation]
    roots: Roots
    present: set[tuple[Target, BuildMode]] = field(default_factory=set)

    async def visit(self, step: _Step) -> list[_Step]:
        """Look at one item; return what has to be looked at because of it."""
        graph = self.plan.graph
        path = step.target.path
        known = path in graph or (step.target, step.mode) in self.present
        following = [] if known else await self._look_at(step)
        if step.dependent is not None and path in graph:
            graph.connect(step.dependent, path)
        return following

    async def _look_at(self, step: _Step) -> list[_Step]:
        path = step.target.path
        await self.roots.add(path)
        if not is_derivation(path):
            self._note_item(path)
            return []
        if not self.database.is_valid(path):
            self._add_problem(path, f"cannot build missing derivation `{path}'")
            return []
        try:
            derivation = self.derivation(path)
        except (StoreError, OSError) as error:
            self._add_problem(path, f"cannot read derivation `{path}': {error}")
            return []
        return await self._look_behind(step, derivation)

    async def _look_behind(self, step: _Step, derivation: Derivation) -> list[_Step]:
        path, names = step.target.path, step.target.outputs
        await self.roots.add(*derivation.output_paths)
        absent = sorted(names - derivation.outputs.keys())
        if absent:
            self._note_absent_output(step, absent[0])
            return []
        if step.mode is BuildMode.NORMAL and not self._lacks(derivation, names):
            self.present.add((step.target, step.mode))
            return []
        self.plan.graph.add(path, derivation, step.mode)
        return await self._inputs(path, derivation, step.mode)

    def _lacks(self, derivation: Derivation, names: frozenset[str]) -> bool:
        paths = zip(derivation.outputs, derivation.output_paths, strict=True)
        wanted = (path for name, path in paths if not names or name in names)
        return not all(map(self.database.is_valid, wanted))

    async def _inputs(
        self, path: StorePath, derivation: Derivation, mode: BuildMode
    ) -> list[_Step]:
        await self.roots.add(*derivation.input_sources)
        missing = [each for each in derivation.input_sources if not self.database.is_valid(each)]
        if missing:
            self.plan.problems[path] = dependencies_failed(path, len(missing))
            return []
        inputs_mode = BuildMode.REPAIR if mode is BuildMode.REPAIR else BuildMode.NORMAL
        inputs: Mapping[StorePath, Iterable[str]] = derivation.input_derivations
        return [
            _Step(Target(drv, frozenset(names)), inputs_mode, path)
            for drv, names in sorted(inputs.items(), reverse=True)
        ]

    def _note_item(self, path: StorePath) -> None:
        if not self.database.is_valid(path):
            self.plan.problems[path] = BuildError(
                f"path `{path}' is not valid, and there is nothing to make it from"
            )

    def _note_absent_output(self, step: _Step, name: str) -> None:
        path = step.target.path
        if step.dependent is None:
            self._add_problem(path, f"derivation `{path}' has no output `{name}'")
            return
        self.plan.problems[step.dependent] = BuildError(
            f"derivation `{step.dependent}' requires non-existent output `{name}' "
            f"from input derivation `{path}'",
            FailureKind.INPUT_REJECTED,
        )

    def _add_problem(self, path: StorePath, message: str) -> None:
        self.plan.graph.add(path, None)
        self.plan.problems[path] = BuildError(message, FailureKind.MISC)


def dependencies_failed(path: StorePath, failed: int) -> BuildError:
    """Return the error of a derivation whose inputs could not be had."""
    return BuildError(
        f"cannot build derivation `{path}': {failed} dependencies couldn't be built",
        FailureKind.DEPENDENCY_FAILED,
    )
