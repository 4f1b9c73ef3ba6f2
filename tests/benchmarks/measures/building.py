# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds, against containers that protect nobody and bytes that are only hashed."""

import re
from collections.abc import Iterator

from store.paths import StorePath
from tests.benchmarks import content, driver, floors
from tests.benchmarks.content import Recipe
from tests.benchmarks.figures import Figure, Goal, Unit
from tests.benchmarks.lab import Lab, Side, empty
from tests.benchmarks.rounds import Contestant

JOBS = 2

MIB = 1024 * 1024

CANDIDATES = 300

BARE = "a bare container"


def chain(lab: Lab) -> Iterator[Figure]:
    """Build derivations of which each needs the one before, so that nothing overlaps."""
    length = lab.scaled(50, 20)

    def contestant(side: Side) -> Contestant:
        def once() -> float:
            recipes = side.recipes.chain(length)
            side.add(recipes)
            return side.build(recipes[-1:])[0] / length

        return once

    with floors.bare_containers(lab.program, lab.scratch / "chain", length) as floor:
        series = lab.contest(contestant, floor)
    name = f"build in a chain of {length}"
    yield Figure(name, BARE, Unit.SECONDS, series, (Goal(1.5),))


def independent(lab: Lab) -> Iterator[Figure]:
    """Build derivations that do not need each other, two at a time."""
    count = lab.scaled(200, 40)

    def contestant(side: Side) -> Contestant:
        def once() -> float:
            recipes = [side.recipes.make() for _ in range(count)]
            side.add(recipes)
            return side.build(recipes)[0] / count

        return once

    with floors.bare_containers(lab.program, lab.scratch / "independent", count // 2) as floor:
        series = lab.contest(contestant, floor)
    name = f"{count} independent builds, {JOBS} jobs, each"
    yield Figure(name, BARE, Unit.SECONDS, series, (Goal(1.0),))


def scan(lab: Lab) -> Iterator[Figure]:
    """Build a large output, which is hashed and scanned for the items that it may refer to."""
    size = lab.scaled(256, 64) * MIB
    data = content.random_bytes(size)

    def contestant(side: Side) -> Contestant:
        sources = [
            StorePath(side.driver.add_text(f"source-{number}", b"%d" % number))
            for number in range(CANDIDATES)
        ]

        def once() -> float:
            mention = " ".join(sources[::100])
            recipe = side.recipes.make(sources=sources, mention=mention, size=f"{size}")
            side.add([recipe])
            taken, output = side.build([recipe])
            _check_references(side, recipe, sources[::100])
            empty(recipe.output)
            return taken - _own_time(output)

        return once

    series = lab.contest(contestant, floors.hashing(data), lab.scaled(5, 3))
    name = f"output of {size // MIB} MiB, {CANDIDATES} candidates"
    floor_name = "sha256 of as many bytes"
    # 0.6 s where sha256 takes 0.23 s.
    yield Figure(name, floor_name, Unit.SECONDS, series, (Goal(2.6),))


def _check_references(side: Side, recipe: Recipe, expected: list[StorePath]) -> None:
    with side.driver.line() as line:
        reply = line.learn(driver.path_request(side.driver.asks_references, recipe.output))
    assert driver.strings(sorted(expected)) in reply, reply


def _own_time(output: bytes) -> float:
    """Read the seconds that the builder itself took from what it wrote."""
    found = re.search(rb"took (\d+) ns", output)
    assert found is not None, output
    return int(found.group(1)) / 1e9
