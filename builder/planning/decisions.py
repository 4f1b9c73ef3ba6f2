# SPDX-License-Identifier: GPL-3.0-or-later
"""Deciding what is open in a plan: what is substituted, and what has to be built after all.

Substituters are asked for all that is wanted at once, then for what that refers to, and
so on. What nobody offers is built, whose inputs are then looked at in turn.
Entry point: `Decisions`.
"""

from dataclasses import dataclass

import trio

from builder.options import BuildMode
from builder.planning.graph import Node, Stage, State, Substitute
from builder.planning.request_plan import (
    Target,
    Wish,
    closure_not_repaired,
    dependencies_failed,
    substitutes_failed,
)
from builder.planning.walk import CHECKS_IN_A_ROW, Step, Walk, inputs_of
from store.derivations import Derivation
from store.paths import StorePath


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decides for one plan; `walk` looks at what follows."""

    walk: Walk

    async def reconsider(self, node: Node) -> None:
        """Look again at a node whose inputs are done."""
        plan, book = self.walk.plan, self.walk.plan.offers
        target, mode = Target(node.path, node.outputs), node.mode
        if node.derivation is None:
            await self._derivation_fetched(target, mode)
            return
        missing = await self.walk.lacking(node.derivation, node.outputs, mode)
        if node.stage is Stage.MENDING and node.failed_inputs:
            plan.problems[node.path] = closure_not_repaired(node.path)
        elif not missing and mode is not BuildMode.CHECK:
            await self._look_further(node, target, node.derivation)
        elif node.stage is Stage.RETRYING:
            book.forget()
            self.walk.wish(Wish(target, mode, missing, node.derivation, retried=True))
        elif book.failed & missing and not plan.fallback:
            plan.problems[node.path] = substitutes_failed(node.path)
        elif missing - book.offers.keys():
            self.walk.wish(Wish(target, mode, missing, node.derivation))
        else:
            await self.walk.follow(await self.walk.build(target, node.derivation, mode))

    async def _look_further(self, node: Node, target: Target, derivation: Derivation) -> None:
        """Be done with a node whose outputs are there, once what they refer to is sound."""
        inspection = self.walk.plan.inspection if node.mode is BuildMode.REPAIR else None
        if inspection is None or node.stage is Stage.MENDING:
            self.walk.plan.realised.append(node.path)
        else:
            await self.walk.follow(await self.walk.mend_closure(target, derivation, inspection))

    async def _derivation_fetched(self, target: Target, mode: BuildMode) -> None:
        path = target.path
        if not self.walk.database.is_valid(path):
            self.walk.add_problem(path, f"cannot build missing derivation `{path}'")
            return
        following = await self.walk.look_at(Step(target, mode))
        if path not in self.walk.plan.wishes and self.walk.plan.graph[path].state is State.TAKEN:
            self.walk.plan.realised.append(path)
        await self.walk.follow(following)

    async def learn(self) -> None:
        """Ask for what is wanted and, as far as they are missing, for what that refers to.

        Stops as soon as something else can be decided: what follows from that is
        then asked for in one question with the rest.
        """
        plan, book = self.walk.plan, self.walk.plan.offers
        await self._check()
        while book.unknown and not any(map(self._is_lost, plan.wishes.values())):
            assert plan.ask is not None, "only who may ask has wishes"
            asked = frozenset(book.unknown)
            book.learn(asked, await plan.ask(asked))
            await self._check()

    def _is_lost(self, wish: Wish) -> bool:
        return self.walk.plan.offers.lacks(wish.items)

    async def _check(self) -> None:
        book = self.walk.plan.offers
        if not book.unchecked:
            return
        await self.walk.plan.roots.add(*book.unchecked)
        valid = []
        for number, path in enumerate(book.unchecked):
            if self.walk.database.is_valid(path):
                valid.append(path)
            if number % CHECKS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        book.note_valid(valid)

    async def decide(self) -> list[Step]:
        """Decide what can be decided; return what has to be looked at because of it."""
        plan, book = self.walk.plan, self.walk.plan.offers
        lost = [wish for wish in plan.wishes.values() if self._is_lost(wish)]
        rest = [] if book.unknown else [w for w in plan.wishes.values() if not self._is_lost(w)]
        obtainable = book.obtainable() if rest else frozenset()
        steps: list[Step] = []
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

    def _accept(self, wish: Wish) -> list[Step]:
        """Have items substituted."""
        plan, path = self.walk.plan, wish.target.path
        self._substitute(wish)
        if wish.sources:
            assert wish.derivation is not None, "sources are somebody's"
            steps = inputs_of(path, wish.derivation, wish.mode)
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
        graph, book = self.walk.plan.graph, self.walk.plan.offers
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

    async def _refuse(self, wish: Wish, missing: int, *, retry: bool) -> list[Step]:
        """Go on without substitutes.

        Args:
            wish: For what.
            missing: How many of the items cannot be had.
            retry: Whether building the inputs may give what the substitutes lack.
        """
        plan, path = self.walk.plan, wish.target.path
        if wish.sources:
            plan.problems[path] = dependencies_failed(path, missing)
        elif wish.derivation is not None:
            return await self.walk.build(wish.target, wish.derivation, wish.mode, retry=retry)
        elif not wish.target.is_item:
            self.walk.add_problem(path, f"cannot build missing derivation `{path}'")
        else:
            self._note_unavailable(wish)
        return []

    def _note_unavailable(self, wish: Wish) -> None:
        """Note that an item cannot be had: one asked for, or one that outputs refer to."""
        for dependent in wish.dependents:
            self.walk.plan.problems[dependent] = closure_not_repaired(dependent)
        if wish.target.path in self.walk.plan.targets:
            self.walk.plan.unavailable.append(wish.target.path)

    def _connect(self, wish: Wish) -> None:
        target = wish.target
        key = Substitute(target.path) if target.is_item else target.path
        for dependent in wish.dependents:
            if key in self.walk.plan.graph:
                self.walk.plan.graph.connect(dependent, key)
