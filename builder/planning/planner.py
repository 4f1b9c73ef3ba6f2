# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a client asks for to the graph of what has to be made for it.

Outputs that are valid are not looked behind: a request for something that is
there costs one query an output. What is missing is substituted where that is
allowed and possible, and otherwise built. A plan can be open: substituters have
to be asked before it is clear what will be built, and after a download or a
build there may be more to decide. `Planner.plan` makes a plan, which asks
nobody, and `Planner.grow` decides what is open in it.

Questions are asked for everything that is open at once, so their number grows
with the depth of what is missing, not with its size.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

import trio

from builder.errors import BuildError
from builder.events import FailureKind
from builder.options import BuildMode
from builder.planning.graph import Node, Stage, State, Substitute
from builder.planning.request_plan import (
    Ask,
    Inspection,
    Load,
    Obtain,
    Plan,
    Roots,
    Target,
    Validity,
    Wish,
    closure_not_repaired,
    dependencies_failed,
    substitutes_allowed,
    substitutes_failed,
)
from store.derivations import Derivation
from store.errors import StoreError
from store.paths import StorePath

GIVE_WAY_EVERY = 32
"""Derivations looked at between two checkpoints: a few milliseconds of work."""

_CHECKS_IN_A_ROW = 256
"""Items looked up between two checkpoints: about a millisecond."""


class Planner:
    """Makes plans.

    Args:
        database: Says what is valid.
        derivation: Returns the derivation of a valid item.
    """

    def __init__(self, database: Validity, derivation: Load) -> None:
        self._database = database
        self._derivation = derivation

    async def plan(
        self,
        targets: Iterable[Target],
        mode: BuildMode,
        roots: Roots,
        *,
        ask: Ask | None = None,
        fallback: bool = False,
        inspection: Inspection | None = None,
        obtain: Obtain | None = None,
    ) -> Plan:
        """Return the plan for a request; all that it speaks of is added to `roots`.

        Nobody is asked for substitutes yet: where that has to be done, the plan is
        open, and nothing of it can be made before it has grown.
        """
        wanted = tuple(targets)
        names = tuple(target.path for target in wanted)
        plan = Plan(names, roots, ask, fallback, inspection, obtain)
        walk = _Walk(plan, self._database, self._derivation)
        await walk.follow([_Step(target, mode) for target in reversed(wanted)])
        if not plan.is_open:
            _finish(plan)
        return plan

    async def grow(self, plan: Plan, *, at_once: bool = False) -> list[Node]:
        """Decide what is open in a plan.

        Args:
            plan: The plan; parts of it may be finished meanwhile.
            at_once: As in `BuildGraph.failed`.

        Returns:
            The nodes given up, since what they need has failed.

        Raises:
            BuildError: The plan cannot be carried out.
            StoreError: Substituters cannot be asked.
        """
        walk = _Walk(plan, self._database, self._derivation)
        while plan.is_open:
            for node in plan.graph.take_undecided():
                await walk.reconsider(node)
            await walk.learn()
            await walk.follow(await walk.decide())
        return _finish(plan, at_once=at_once)


def _finish(plan: Plan, *, at_once: bool = False) -> list[Node]:
    path = plan.graph.cycle()
    if path is not None:
        raise BuildError(
            f"derivation `{path}' depends on its own outputs", FailureKind.INPUT_REJECTED
        )
    return plan.graph.settle(at_once=at_once)


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
    derivation: Load
    present: set[tuple[Target, BuildMode]] = field(default_factory=set)

    async def follow(self, steps: list[_Step]) -> None:
        """Look at things, and at all that has to be looked at because of them."""
        for visited in count(1):
            if not steps:
                break
            steps.extend(await self.visit(steps.pop()))
            if visited % GIVE_WAY_EVERY == 0:
                await trio.lowlevel.checkpoint()

    async def visit(self, step: _Step) -> list[_Step]:
        """Look at one item; return what has to be looked at because of it."""
        plan, path = self.plan, step.target.path
        following = [] if self._is_known(step) else await self._look_at(step)
        if step.dependent is not None:
            if path in plan.wishes:
                plan.wishes[path].dependents.add(step.dependent)
            elif path in plan.graph:
                plan.graph.connect(step.dependent, path)
        return following

    def _is_known(self, step: _Step) -> bool:
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

    async def _look_at(self, step: _Step) -> list[_Step]:
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
            self._add_problem(path, f"cannot read derivation `{path}': {error}")
            return []
        return await self._look_behind(step, derivation)

    async def _look_behind(self, step: _Step, derivation: Derivation) -> list[_Step]:
        names = step.target.outputs
        await self.plan.roots.add(*derivation.output_paths)
        absent = sorted(names - derivation.outputs.keys())
        if absent:
            self._note_absent_output(step, absent[0])
            return []
        missing = await self._lacking(derivation, names, step.mode)
        if missing and await self._obtain(step, derivation):
            missing = frozenset()
        if step.mode is BuildMode.NORMAL and not missing:
            self.present.add((step.target, step.mode))
            return []
        if missing and self.plan.ask is not None and substitutes_allowed(derivation):
            self._wish(Wish(step.target, step.mode, missing, derivation))
            return []
        if step.mode is BuildMode.REPAIR and not missing and self.plan.inspection is not None:
            return await self._mend_closure(step.target, derivation, self.plan.inspection)
        return await self._build(step.target, derivation, step.mode)

    async def _obtain(self, step: _Step, derivation: Derivation) -> bool:
        """Have a fixed output copied if its content is known; then nothing else is needed."""
        if step.mode is not BuildMode.NORMAL or self.plan.obtain is None:
            return False
        return await self.plan.obtain(step.target.path, derivation)

    async def _lacking(
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
        return frozenset(path for path in _outputs(derivation, names) if not is_valid(path))

    async def _absent(self, paths: Iterable[StorePath]) -> list[StorePath]:
        """Return the items that are not valid, of however many, without holding up others."""
        absent = []
        for number, path in enumerate(paths, 1):
            if not self.database.is_valid(path):
                absent.append(path)
            if number % _CHECKS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        return absent

    def _wish(self, wish: Wish) -> None:
        earlier = self.plan.wishes.get(wish.target.path)
        if earlier is not None:
            names = earlier.target.outputs | wish.target.outputs
            wish.target = Target(wish.target.path, names if wish.target.outputs else frozenset())
            wish.items |= earlier.items
            wish.dependents |= earlier.dependents
        self.plan.wishes[wish.target.path] = wish
        self.plan.offers.want(wish.items)

    async def _mend_closure(
        self, target: Target, derivation: Derivation, inspection: Inspection
    ) -> list[_Step]:
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
            self._wish(Wish(wanted_item, BuildMode.REPAIR, frozenset({item}), dependents={path}))
        makers = sorted({maker for maker in damaged.values() if maker is not None})
        return [_Step(Target(maker), BuildMode.REPAIR, path) for maker in makers]

    async def _build(
        self,
        target: Target,
        derivation: Derivation,
        mode: BuildMode,
        *,
        retry: bool = False,
    ) -> list[_Step]:
        """Let a derivation be built; return its inputs, unless its sources are not there yet."""
        plan = self.plan
        node = plan.graph.add(target.path, derivation, mode)
        if retry:
            node.stage, node.outputs = Stage.RETRYING, target.outputs
        await plan.roots.add(*derivation.input_sources)
        missing = await self._absent(derivation.input_sources)
        if not missing:
            return _inputs(target.path, derivation, mode)
        if plan.ask is None:
            plan.problems[target.path] = dependencies_failed(target.path, len(missing))
        else:
            self._wish(Wish(target, mode, frozenset(missing), derivation, sources=True))
        return []

    # What is open

    async def reconsider(self, node: Node) -> None:
        """Look again at a node whose inputs are done."""
        plan, book = self.plan, self.plan.offers
        target, mode = Target(node.path, node.outputs), node.mode
        if node.derivation is None:
            await self._derivation_fetched(target, mode)
            return
        missing = await self._lacking(node.derivation, node.outputs, mode)
        if node.stage is Stage.MENDING and node.failed_inputs:
            plan.problems[node.path] = closure_not_repaired(node.path)
        elif not missing and mode is not BuildMode.CHECK:
            await self._look_further(node, target, node.derivation)
        elif node.stage is Stage.RETRYING:
            book.forget()
            self._wish(Wish(target, mode, missing, node.derivation, retried=True))
        elif book.failed & missing and not plan.fallback:
            plan.problems[node.path] = substitutes_failed(node.path)
        elif missing - book.offers.keys():
            self._wish(Wish(target, mode, missing, node.derivation))
        else:
            await self.follow(await self._build(target, node.derivation, mode))

    async def _look_further(self, node: Node, target: Target, derivation: Derivation) -> None:
        """Be done with a node whose outputs are there, once what they refer to is sound."""
        inspection = self.plan.inspection if node.mode is BuildMode.REPAIR else None
        if inspection is None or node.stage is Stage.MENDING:
            self.plan.realised.append(node.path)
        else:
            await self.follow(await self._mend_closure(target, derivation, inspection))

    async def _derivation_fetched(self, target: Target, mode: BuildMode) -> None:
        path = target.path
        if not self.database.is_valid(path):
            self._add_problem(path, f"cannot build missing derivation `{path}'")
            return
        following = await self._look_at(_Step(target, mode))
        if path not in self.plan.wishes and self.plan.graph[path].state is State.TAKEN:
            self.plan.realised.append(path)
        await self.follow(following)

    async def learn(self) -> None:
        """Ask for what is wanted and, as far as they are missing, for what that refers to.

        Stops as soon as something else can be decided: what follows from that is
        then asked for in one question with the rest.
        """
        plan, book = self.plan, self.plan.offers
        await self._check()
        while book.unknown and not any(map(self._is_lost, plan.wishes.values())):
            assert plan.ask is not None, "only who may ask has wishes"
            asked = frozenset(book.unknown)
            book.learn(asked, await plan.ask(asked))
            await self._check()

    def _is_lost(self, wish: Wish) -> bool:
        return self.plan.offers.lacks(wish.items)

    async def _check(self) -> None:
        book = self.plan.offers
        if not book.unchecked:
            return
        await self.plan.roots.add(*book.unchecked)
        valid = []
        for number, path in enumerate(book.unchecked):
            if self.database.is_valid(path):
                valid.append(path)
            if number % _CHECKS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        book.note_valid(valid)

    async def decide(self) -> list[_Step]:
        """Decide what can be decided; return what has to be looked at because of it."""
        plan, book = self.plan, self.plan.offers
        lost = [wish for wish in plan.wishes.values() if self._is_lost(wish)]
        rest = [] if book.unknown else [w for w in plan.wishes.values() if not self._is_lost(w)]
        obtainable = book.obtainable() if rest else frozenset()
        steps: list[_Step] = []
        for wish in (*lost, *rest):
            del plan.wishes[wish.target.path]
            if wish.items <= obtainable:
                steps += self._accept(wish)
            else:
                retry = not self._is_lost(wish) and not wish.retried
                steps += await self._refuse(wish, len(wish.items - obtainable), retry=retry)
            if not wish.sources:
                self._connect(wish)
        return steps

    def _accept(self, wish: Wish) -> list[_Step]:
        """Have items substituted."""
        plan, path = self.plan, wish.target.path
        self._substitute(wish)
        if wish.sources:
            assert wish.derivation is not None, "sources are somebody's"
            steps = _inputs(path, wish.derivation, wish.mode)
        elif not wish.target.is_item:
            node = plan.graph.add(path, wish.derivation, wish.mode)
            node.stage, node.outputs = Stage.SUBSTITUTING, wish.target.outputs
            steps = []
        else:
            return []
        for item in wish.items:
            plan.graph.connect(path, Substitute(item))
        return steps

    def _substitute(self, wish: Wish) -> None:
        """Add items, and what they need, to the graph."""
        graph, book = self.plan.graph, self.plan.offers
        repairs = wish.mode is BuildMode.REPAIR and not wish.sources
        mode = BuildMode.REPAIR if repairs else BuildMode.NORMAL
        pending = [(item, mode) for item in wish.items]
        added: list[StorePath] = []
        while pending:
            item, mode = pending.pop()
            known = graph.get(Substitute(item))
            if known is None or (known.state is State.DONE and mode is BuildMode.REPAIR):
                graph.add(Substitute(item), mode=mode, offer=book.offers[item])
                added.append(item)
                pending += [(needed, BuildMode.NORMAL) for needed in book.needs(item)]
        for item in added:
            for needed in book.needs(item):
                graph.connect(Substitute(item), Substitute(needed))

    async def _refuse(self, wish: Wish, missing: int, *, retry: bool) -> list[_Step]:
        """Go on without substitutes.

        Args:
            wish: For what.
            missing: How many of the items cannot be had.
            retry: Whether building the inputs may give what the substitutes lack.
        """
        plan, path = self.plan, wish.target.path
        if wish.sources:
            plan.problems[path] = dependencies_failed(path, missing)
        elif wish.derivation is not None:
            return await self._build(wish.target, wish.derivation, wish.mode, retry=retry)
        elif not wish.target.is_item:
            self._add_problem(path, f"cannot build missing derivation `{path}'")
        else:
            self._note_unavailable(wish)
        return []

    def _note_unavailable(self, wish: Wish) -> None:
        """Note that an item cannot be had: one asked for, or one that outputs refer to."""
        for dependent in wish.dependents:
            self.plan.problems[dependent] = closure_not_repaired(dependent)
        if wish.target.path in self.plan.targets:
            self.plan.unavailable.append(wish.target.path)

    def _connect(self, wish: Wish) -> None:
        target = wish.target
        key = Substitute(target.path) if target.is_item else target.path
        for dependent in wish.dependents:
            if key in self.plan.graph:
                self.plan.graph.connect(dependent, key)

    # Problems

    def _note_item(self, step: _Step) -> None:
        path = step.target.path
        if self.database.is_valid(path) and step.mode is not BuildMode.REPAIR:
            return
        if self.plan.ask is not None:
            self._wish(Wish(step.target, step.mode, frozenset({path})))
        elif not self.database.is_valid(path):
            self.plan.unavailable.append(path)

    def _note_missing_derivation(self, step: _Step) -> None:
        path = step.target.path
        if self.plan.ask is None:
            self._add_problem(path, f"cannot build missing derivation `{path}'")
        else:
            self._wish(Wish(step.target, step.mode, frozenset({path})))

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


def _outputs(derivation: Derivation, names: frozenset[str]) -> list[StorePath]:
    paths = zip(derivation.outputs, derivation.output_paths, strict=True)
    return [path for name, path in paths if not names or name in names]


def _inputs(path: StorePath, derivation: Derivation, mode: BuildMode) -> list[_Step]:
    inputs_mode = BuildMode.REPAIR if mode is BuildMode.REPAIR else BuildMode.NORMAL
    inputs: Mapping[StorePath, Iterable[str]] = derivation.input_derivations
    return [
        _Step(Target(drv, frozenset(names)), inputs_mode, path)
        for drv, names in sorted(inputs.items(), reverse=True)
    ]
