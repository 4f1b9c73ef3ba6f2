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

from collections.abc import Iterable

from builder.errors import BuildError
from builder.events import FailureKind
from builder.options import BuildMode
from builder.planning.decisions import Decisions
from builder.planning.graph import Node
from builder.planning.request_plan import (
    Ask,
    Inspection,
    Load,
    Obtain,
    Plan,
    Roots,
    Target,
    Validity,
)
from builder.planning.walk import Step, Walk


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
        walk = Walk(plan, self._database, self._derivation)
        await walk.follow([Step(target, mode) for target in reversed(wanted)])
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
        walk = Walk(plan, self._database, self._derivation)
        decisions = Decisions(walk)
        while plan.is_open:
            for node in plan.graph.take_undecided():
                await decisions.reconsider(node)
            await decisions.learn()
            await walk.follow(await decisions.decide())
        return _finish(plan, at_once=at_once)


def _finish(plan: Plan, *, at_once: bool = False) -> list[Node]:
    path = plan.graph.cycle()
    if path is not None:
        raise BuildError(
            f"derivation `{path}' depends on its own outputs", FailureKind.INPUT_REJECTED
        )
    return plan.graph.settle(at_once=at_once)
