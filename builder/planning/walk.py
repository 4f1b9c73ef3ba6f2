# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at what is wanted, and behind it: which outputs are missing, and what they take.

A walk goes from the targets to whatever they need that is not there, and puts each
into the graph of a plan, or among the wishes that substituters are asked for.
Entry point: `Walk.follow`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import trio

from builder.errors import BuildError
from builder.events import FailureKind
from builder.options import BuildMode
from builder.planning.graph import Node, Stage, State
from builder.planning.request_plan import (
    Inspection,
    Load,
    Plan,
    Target,
    Validity,
    Wish,
    closure_not_repaired,
    dependencies_failed,
    substitutes_allowed,
)
from store.derivations import Derivation
from store.errors import StoreError
from store.paths import StorePath

GIVE_WAY_EVERY = 32
"""Derivations looked at between two checkpoints: a few milliseconds of work."""

CHECKS_IN_A_ROW = 256
"""Items looked up between two checkpoints: about a millisecond."""


class Step(NamedTuple):
    """Something to look at, and the derivation that needs it, if one does."""

    target: Target
    mode: BuildMode
    dependent: StorePath | None = None


@dataclass(frozen=True, slots=True)
class Walk:
    """What is looked at for one plan.

    Attributes:
        plan: It grows.
        database: Says what is valid.
        derivation: Returns the derivation of a valid item.
        present: What was found to be there.
    """

    plan: Plan
    database: Validity
    derivation: Load
    present: set[tuple[Target, BuildMode]] = field(default_factory=set)

    async def follow(self, steps: list[Step]) -> None:
        """Look at things, and at all that has to be looked at because of them."""
        for visited in count(1):
            if not steps:
                break
            steps.extend(await self.visit(steps.pop()))
            if visited % GIVE_WAY_EVERY == 0:
                await trio.lowlevel.checkpoint()

    async def visit(self, step: Step) -> list[Step]:
        """Look at one item; return what has to be looked at because of it."""
        plan, path = self.plan, step.target.path
        following = [] if self._is_known(step) else await self.look_at(step)
        if step.dependent is not None:
            if path in plan.wishes:
                plan.wishes[path].dependents.add(step.dependent)
            elif path in plan.graph:
                plan.graph.connect(step.dependent, path)
        return following

    def _is_known(self, step: Step) -> bool:
        """Tell whether the plan covers a step already; widen what is wanted if need be."""
        if (step.target, step.mode) in self.present:
            return True
        path, names = step.target.path, step.target.outputs
        wish = self.plan.wishes.get(path)
        if wish is not None:
            return names <= wish.target.outputs or not wish.target.outputs
        node = self.plan.graph.get(path)
        if node is None or (node.state is State.DONE and self._lacks_outputs(node, names)):
            return False
        if node.stage is not Stage.MAKING and node.outputs:
            # What is being substituted is looked at again, and then for these as well.
            node.outputs = node.outputs | names if names else names
        return True

    def _lacks_outputs(self, node: Node, names: frozenset[str]) -> bool:
        return node.derivation is not None and bool(self._missing(node.derivation, names))

    async def look_at(self, step: Step) -> list[Step]:
        """Look at an item that the plan does not cover; return what follows from it."""
        path = step.target.path
        await self.plan.roots.add(path)
        if step.target.is_item:
            self._note_item(step)
            return []
        if not self.database.is_valid(path):
            self._note_missing_derivation(step)
            return []
        try:
            derivation = await self.derivation(path)
        except (StoreError, OSError) as error:
            self.add_problem(path, f"cannot read derivation `{path}': {error}")
            return []
        return await self._look_behind(step, derivation)

    async def _look_behind(self, step: Step, derivation: Derivation) -> list[Step]:
        names = step.target.outputs
        await self.plan.roots.add(*derivation.output_paths)
        absent = sorted(names - derivation.outputs.keys())
        if absent:
            self._note_absent_output(step, absent[0])
            return []
        missing = await self.lacking(derivation, names, step.mode)
        if missing and await self._obtain(step, derivation):
            missing = frozenset()
        if step.mode is BuildMode.NORMAL and not missing:
            self.present.add((step.target, step.mode))
            return []
        if missing and self.plan.ask is not None and substitutes_allowed(derivation):
            self.wish(Wish(step.target, step.mode, missing, derivation))
            return []
        if step.mode is BuildMode.REPAIR and not missing and self.plan.inspection is not None:
            return await self.mend_closure(step.target, derivation, self.plan.inspection)
        return await self.build(step.target, derivation, step.mode)

    async def _obtain(self, step: Step, derivation: Derivation) -> bool:
        """Have a fixed output copied if its content is known; then nothing else is needed."""
        if step.mode is not BuildMode.NORMAL or self.plan.obtain is None:
            return False
        return await self.plan.obtain(step.target.path, derivation)

    async def lacking(
        self, derivation: Derivation, names: frozenset[str], mode: BuildMode
    ) -> frozenset[StorePath]:
        """Return the outputs that are missing or, in a repair, damaged."""
        missing, inspection = self._missing(derivation, names), self.plan.inspection
        if mode is not BuildMode.REPAIR or inspection is None:
            return missing
        valid = [path for path in _outputs(derivation, names) if path not in missing]
        return missing.union([path for path in valid if not await inspection.intact(path)])

    def _missing(self, derivation: Derivation, names: frozenset[str]) -> frozenset[StorePath]:
        is_valid = self.database.is_valid
        return frozenset([path for path in _outputs(derivation, names) if not is_valid(path)])

    async def _absent(self, paths: Iterable[StorePath]) -> list[StorePath]:
        """Return the items that are not valid, of however many, without holding up others."""
        absent = []
        for number, path in enumerate(paths, 1):
            if not self.database.is_valid(path):
                absent.append(path)
            if number % CHECKS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        return absent

    def wish(self, wish: Wish) -> None:
        """Have substituters asked, for what is wanted of an item already as well."""
        earlier = self.plan.wishes.get(wish.target.path)
        if earlier is not None:
            names = earlier.target.outputs | wish.target.outputs
            wish.target = Target(wish.target.path, names if wish.target.outputs else frozenset())
            wish.items |= earlier.items
            wish.dependents |= earlier.dependents
        self.plan.wishes[wish.target.path] = wish
        self.plan.offers.want(wish.items)

    async def mend_closure(
        self, target: Target, derivation: Derivation, inspection: Inspection
    ) -> list[Step]:
        """Have what sound outputs refer to repaired; return the derivations that make it."""
        plan, path = self.plan, target.path
        own, wanted = derivation.output_paths, _outputs(derivation, target.outputs)
        damaged = await inspection.damage_behind(path, own, wanted)
        if not damaged:
            if path in plan.graph:
                plan.realised.append(path)
            self.present.add((target, BuildMode.REPAIR))
            return []
        node = plan.graph.add(path, derivation, BuildMode.REPAIR)
        node.stage, node.outputs = Stage.MENDING, target.outputs
        orphans = [item for item, maker in damaged.items() if maker is None]
        if orphans and plan.ask is None:
            plan.problems[path] = closure_not_repaired(path)
            return []
        for item in orphans:
            wanted_item = Target(item, as_item=True)
            self.wish(Wish(wanted_item, BuildMode.REPAIR, frozenset({item}), dependents={path}))
        makers = sorted({maker for maker in damaged.values() if maker is not None})
        return [Step(Target(maker), BuildMode.REPAIR, path) for maker in makers]

    async def build(
        self,
        target: Target,
        derivation: Derivation,
        mode: BuildMode,
        *,
        retry: bool = False,
    ) -> list[Step]:
        """Let a derivation be built; return its inputs, unless its sources are not there yet."""
        plan = self.plan
        node = plan.graph.add(target.path, derivation, mode)
        if retry:
            node.stage, node.outputs = Stage.RETRYING, target.outputs
        await plan.roots.add(*derivation.input_sources)
        missing = await self._absent(derivation.input_sources)
        if not missing:
            return inputs_of(target.path, derivation, mode)
        if plan.ask is None:
            plan.problems[target.path] = dependencies_failed(target.path, len(missing))
        else:
            self.wish(Wish(target, mode, frozenset(missing), derivation, sources=True))
        return []

    def _note_item(self, step: Step) -> None:
        path = step.target.path
        if self.database.is_valid(path) and step.mode is not BuildMode.REPAIR:
            return
        if self.plan.ask is not None:
            self.wish(Wish(step.target, step.mode, frozenset({path})))
        elif not self.database.is_valid(path):
            self.plan.unavailable.append(path)

    def _note_missing_derivation(self, step: Step) -> None:
        path = step.target.path
        if self.plan.ask is None:
            self.add_problem(path, f"cannot build missing derivation `{path}'")
        else:
            self.wish(Wish(step.target, step.mode, frozenset({path})))

    def _note_absent_output(self, step: Step, name: str) -> None:
        path = step.target.path
        if step.dependent is None:
            self.add_problem(path, f"derivation `{path}' has no output `{name}'")
            return
        self.plan.problems[step.dependent] = BuildError(
            f"derivation `{step.dependent}' requires non-existent output `{name}' "
            f"from input derivation `{path}'",
            FailureKind.INPUT_REJECTED,
        )

    def add_problem(self, path: StorePath, message: str) -> None:
        """Note that a derivation cannot be built."""
        self.plan.graph.add(path, None)
        self.plan.problems[path] = BuildError(message, FailureKind.MISC)


def _outputs(derivation: Derivation, names: frozenset[str]) -> Sequence[StorePath]:
    if not names:
        return derivation.output_paths
    paths = zip(derivation.outputs, derivation.output_paths, strict=True)
    return [path for name, path in paths if name in names]


def inputs_of(path: StorePath, derivation: Derivation, mode: BuildMode) -> list[Step]:
    """Return the steps to what a derivation is built from."""
    inputs_mode = BuildMode.REPAIR if mode is BuildMode.REPAIR else BuildMode.NORMAL
    inputs: Mapping[StorePath, Iterable[str]] = derivation.input_derivations
    return [
        Step(Target(drv, frozenset(names)), inputs_mode, path)
        for drv, names in sorted(inputs.items(), reverse=True)
    ]
