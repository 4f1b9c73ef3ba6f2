# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that walks a closure, asking each item for its references."""

from collections.abc import Iterator
from contextlib import ExitStack

from tests.benchmarks import driver, floors
from tests.benchmarks.driver import Line
from tests.benchmarks.figures import Against, Figure, Goal, Unit
from tests.benchmarks.lab import Lab, Side
from tests.benchmarks.rounds import Contestant, timed


def references(lab: Lab) -> Iterator[Figure]:
    """Walk 10,000 items, wherever the kernel puts client and daemon."""
    items = lab.scaled(10_000, 1000)
    with ExitStack() as stack:
        ours = _graph(lab.ours, items)
        request, size = ours[-1]
        floor = stack.enter_context(floors.ping_pong(len(request), size, items))

        def contestant(side: Side) -> Contestant:
            questions = ours if side is lab.ours else _graph(side, items)
            line = stack.enter_context(side.driver.line())
            return lambda: timed(lambda: _walk(line, questions)) / items

        series = lab.contest(contestant, floor, lab.scaled(5, 3))
    name = f"references, walk of {items} paths, each"
    goals = (Goal(1.0, Against.PEER),)
    return iter([Figure(name, "a round trip of these sizes", Unit.SECONDS, series, goals)])


def _graph(side: Side, items: int) -> list[tuple[bytes, int]]:
    """Add texts that refer to up to three others; give the questions and their replies' sizes."""
    paths: list[str] = []
    questions = []
    beside = 0
    for number in range(items):
        wanted = {at for at in (number - 1, number // 2, number // 3) if 0 <= at < number}
        found = sorted(paths[at] for at in wanted)
        paths.append(side.driver.add_text(f"node-{number}", b"%d" % number, found))
        request = driver.path_request(side.driver.asks_references, paths[-1])
        if number == 0:
            with side.driver.line() as line:
                beside = len(line.learn(request)) - len(driver.strings(()))
        questions.append((request, beside + len(driver.strings(found))))
    return questions[::-1]


def _walk(line: Line, questions: list[tuple[bytes, int]]) -> None:
    for request, size in questions:
        line.ask(request, size)
