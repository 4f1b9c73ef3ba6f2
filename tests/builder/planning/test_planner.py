# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be built for a request, given what is valid."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from builder.errors import BuildError
from builder.options import BuildMode
from builder.planning.planner import Planner
from builder.planning.request_plan import Plan, Target, parse_target
from builder.substitution.offers import Offer
from store.derivations import Derivation
from store.errors import InvalidPathError
from store.paths import StoreDirectory, StorePath
from tests.builder.loading import loading

if TYPE_CHECKING:
    from tests.builder.conftest import MakeDerivation, MakePath


@dataclass
class World:
    """Derivations by path, and the items that are valid."""

    derivations: dict[StorePath, Derivation] = field(default_factory=dict)
    valid: set[StorePath] = field(default_factory=set)
    protected: set[StorePath] = field(default_factory=set)

    def add(self, path: StorePath, derivation: Derivation) -> None:
        """Let there be a valid derivation."""
        self.derivations[path] = derivation
        self.valid.add(path)

    def is_valid(self, path: StorePath) -> bool:
        """Tell whether an item is valid; it must have been protected before."""
        assert path in self.protected
        return path in self.valid

    async def add_root(self, *paths: StorePath) -> None:
        """Note what is protected."""
        self.protected.update(paths)

    async def plan(self, *targets: Target, mode: BuildMode = BuildMode.NORMAL) -> Plan:
        """Return the plan for targets."""
        planner = Planner(self, loading(self.derivations))
        return await planner.plan(targets, mode, SimpleNamespace(add=self.add_root))


@pytest.fixture
def world(path: "MakePath", derivation: "MakeDerivation") -> World:
    """A program that needs a library that needs a source; nothing is built."""
    world = World()
    world.add(path("lib.drv"), derivation("lib", sources=["source"]))
    world.add(path("app.drv"), derivation("app", inputs=["lib"]))
    world.valid.add(path("source"))
    return world


async def test_what_is_missing_is_planned_with_all_it_needs(world: World, path: "MakePath"):
    """The library comes before the program."""
    plan = await world.plan(Target(path("app.drv")))
    assert [node.path for node in plan.graph.take_ready()] == [path("lib.drv")]
    plan.graph.succeeded(path("lib.drv"))
    assert [node.path for node in plan.graph.take_ready()] == [path("app.drv")]
    assert not plan.problems


async def test_valid_outputs_are_not_looked_behind(world: World, path: "MakePath"):
    """A request for what is there reads no derivation but its own."""
    world.valid.add(path("app"))
    del world.derivations[path("lib.drv")]
    plan = await world.plan(Target(path("app.drv")))
    assert len(plan.graph) == 0


async def test_checking_builds_what_is_valid_but_not_its_inputs(world: World, path: "MakePath"):
    """Only the target is built again."""
    world.valid |= {path("app"), path("lib")}
    plan = await world.plan(Target(path("app.drv")), mode=BuildMode.CHECK)
    [node] = plan.graph.take_ready()
    assert (node.path, node.mode) == (path("app.drv"), BuildMode.CHECK)


async def test_what_can_be_obtained_is_neither_asked_for_nor_looked_behind(
    world: World, path: "MakePath"
):
    """No substituter hears of it, and its inputs are not needed."""
    seen = []

    async def obtain(drv: StorePath, derivation: Derivation) -> bool:
        seen.append((drv, derivation))
        return drv == path("lib.drv")

    async def ask(paths: Collection[StorePath]) -> dict[StorePath, Offer]:
        assert paths == {path("app")}
        return {}

    planner = Planner(world, loading(world.derivations))
    roots = SimpleNamespace(add=world.add_root)
    world.valid.remove(path("source"))
    plan = await planner.plan(
        [Target(path("app.drv"))], BuildMode.NORMAL, roots, ask=ask, obtain=obtain
    )
    await planner.grow(plan)
    assert seen == [(drv, world.derivations[drv]) for drv in map(path, ("app.drv", "lib.drv"))]
    assert [node.path for node in plan.graph.take_ready()] == [path("app.drv")]
    assert not plan.problems


@pytest.mark.parametrize("mode", [BuildMode.CHECK, BuildMode.REPAIR])
async def test_checks_and_repairs_obtain_nothing(world: World, path: "MakePath", mode: BuildMode):
    """They are about what builders make."""

    async def obtain(_drv: StorePath, _derivation: Derivation) -> bool:
        raise AssertionError

    world.valid |= {path("app"), path("lib")}
    planner = Planner(world, loading(world.derivations))
    roots = SimpleNamespace(add=world.add_root)
    plan = await planner.plan([Target(path("app.drv"))], mode, roots, obtain=obtain)
    assert plan.graph.take_ready()


async def test_a_missing_derivation_is_a_problem_of_the_plan(world: World, path: "MakePath"):
    """The error names it; what needs it is connected to it."""
    world.valid.remove(path("lib.drv"))
    plan = await world.plan(Target(path("app.drv")))
    message = plan.problems[path("lib.drv")].message
    assert message == f"cannot build missing derivation `{path('lib.drv')}'"
    given_up = plan.graph.failed(path("lib.drv"), at_once=True)
    assert [node.path for node in given_up] == [path("app.drv")]


async def test_a_missing_source_is_a_problem_of_its_derivation(world: World, path: "MakePath"):
    """Sources cannot be built."""
    world.valid.remove(path("source"))
    plan = await world.plan(Target(path("app.drv")))
    assert "1 dependencies couldn't be built" in plan.problems[path("lib.drv")].message


async def test_an_output_that_an_input_does_not_have_is_named(
    world: World, path: "MakePath", derivation: "MakeDerivation"
):
    """The error names the derivation that asks, the output, and the input."""
    inputs = {path("lib.drv"): ("absent",)}
    forged = replace(derivation("forged"), input_derivations=inputs)
    world.add(path("forged.drv"), forged)
    plan = await world.plan(Target(path("forged.drv")))
    message = plan.problems[path("forged.drv")].message
    assert "non-existent output `absent'" in message
    assert path("lib.drv") in message


async def test_only_the_outputs_asked_for_matter(
    world: World, path: "MakePath", derivation: "MakeDerivation"
):
    """A derivation with one missing output is not built for the sake of another."""
    world.add(path("two.drv"), derivation("two", outputs=["lib", "out"]))
    world.valid.add(path("two"))
    plan = await world.plan(Target(path("two.drv"), frozenset({"out"})))
    assert len(plan.graph) == 0
    plan = await world.plan(Target(path("two.drv")))
    assert len(plan.graph) == 1


async def test_a_cycle_is_refused(world: World, path: "MakePath", derivation: "MakeDerivation"):
    """Forged derivations that need each other are an error, not an endless wait."""
    world.add(path("hen.drv"), derivation("hen", inputs=["egg"]))
    world.add(path("egg.drv"), derivation("egg", inputs=["hen"]))
    with pytest.raises(BuildError, match="depends on its own outputs"):
        await world.plan(Target(path("hen.drv")))


def test_a_target_may_name_outputs(store: StoreDirectory, path: "MakePath"):
    """The form is that of the worker protocol."""
    text = path("x.drv")
    assert parse_target(text, store) == Target(text)
    assert parse_target(f"{text}!out,lib", store) == Target(text, frozenset({"out", "lib"}))
    with pytest.raises(InvalidPathError):
        parse_target("/etc/passwd!out", store)
