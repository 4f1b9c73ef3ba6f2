# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that has nothing to do with what is measured, and is to be served meanwhile."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.benchmarks import driver, floors
from tests.benchmarks.driver import Driver
from tests.benchmarks.figures import Against, Figure, Goal, Series, Unit
from tests.benchmarks.processes import descriptors
from tests.benchmarks.rounds import timed
from tests.benchmarks.sampling import percentile, sampled


@dataclass(slots=True)
class Bystander:
    """A client that asks small questions while another one's request goes on.

    Attributes:
        client: Connects it.
    """

    client: Driver
    longest: list[float] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    descriptors: list[tuple[int, int, int]] = field(default_factory=list)

    def watch(self, work: Callable[[], float]) -> float:
        """Ask all the while, and have a process asked that only answers, for comparison."""
        question = driver.path_request(
            driver.IS_VALID_PATH, f"{self.client.store.path}/{'0' * 32}-x"
        )
        answer, pid = driver.truth_reply(0), self.client.pid
        with ExitStack() as stack:
            line = stack.enter_context(self.client.line())
            echo = driver.Line(stack.enter_context(floors.echo(len(question), len(answer))))
            before = descriptors(pid)
            waits, bare, counts = (
                stack.enter_context(sampled(sample))
                for sample in (
                    lambda: timed(lambda: line.ask(question, len(answer))),
                    lambda: timed(lambda: echo.ask(question, len(answer))),
                    lambda: descriptors(pid),
                )
            )
            taken = work()
            found = waits()
            self.longest.append(found[-1])
            self.usual.append(percentile(found, 0.999))
            self.bare.append(bare()[-1])
            self.descriptors.append((before, int(counts()[-1]), descriptors(pid)))
        return taken

    def figure(self, name: str, wait: float) -> Figure:
        """Sum up, without the round that warms up."""
        series = Series(self.longest[1:], self.bare[1:])
        usual = Unit.SECONDS.show(statistics.median(self.usual[1:]))
        before, during, after = self.descriptors[-1]
        notes = (
            f"99.9 % of the waits are at most {usual}",
            f"descriptors of the daemon before, at most and after: {before}, {during}, {after}",
        )
        floor = "longest wait for a process that only answers"
        return Figure(name, floor, Unit.SECONDS, series, (Goal(wait, Against.NOTHING),), notes)
