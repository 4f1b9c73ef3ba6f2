# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds with very many inputs, which cost time per input before anything runs."""

from collections.abc import Iterator
from pathlib import Path

from store.derivations import unparse_derivation
from store.paths import StorePath
from tests.benchmarks import floors
from tests.benchmarks.bystander import Bystander
from tests.benchmarks.figures import Against, Figure, Goal, Unit
from tests.benchmarks.lab import Lab
from tests.benchmarks.rounds import take_turns
from tests.benchmarks.stocking import stock

LIMITS = {10_000: (0.5, 0.010), 100_000: (6.0, 0.050)}
"""Seconds for a trivial build, and that others may wait for an answer, by the number of inputs."""


def many(lab: Lab) -> Iterator[Figure]:
    """Build something trivial that may see 10,000, or 100,000, items, as others ask questions."""
    for count in lab.scaled(tuple(LIMITS), tuple(LIMITS)[:1]):
        store = lab.ours.driver.store
        names = [f"input-{number}-of-{count}" for number in range(count)]
        sources = stock(store, Path(store.path).parent / "state/db/db.sqlite", names)
        bystander = Bystander(lab.ours.driver)

        def once(sources: list[StorePath] = sources, bystander: Bystander = bystander) -> float:
            recipe = lab.ours.recipes.make(sources=sources)
            assert len(unparse_derivation(recipe.derivation)) > len(sources)

            def build() -> float:
                lab.ours.add([recipe])
                return lab.ours.build([recipe])[0]

            return bystander.watch(build)

        with floors.bare_containers(lab.program, lab.scratch / f"inputs-{count}", 10) as floor:
            series = take_turns(3, once, floor=floor)
        seconds, wait = LIMITS[count]
        goals = (Goal(seconds, Against.NOTHING),)
        yield Figure(f"build with {count} inputs", "a bare container", Unit.SECONDS, series, goals)
        yield bystander.figure(f"longest wait of another client, {count} inputs", wait)
