# SPDX-License-Identifier: GPL-3.0-or-later
"""Adding texts, files and trees."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from tests.benchmarks import content, floors
from tests.benchmarks.driver import LAST, Driver, string, text_request
from tests.benchmarks.figures import Against, Figure, Goal, Unit
from tests.benchmarks.lab import Lab, Side, empty
from tests.benchmarks.pinning import pinned
from tests.benchmarks.rounds import Contestant, timed

MIB = 1024 * 1024


def text(lab: Lab) -> Iterator[Figure]:
    """Add small texts one after the other, on one CPU, and on whichever there are."""
    yield _texts(lab, "add a small text, one CPU", lab.cpus[0], (Goal(10.0),))
    yield _texts(lab, "add a small text, any CPU", None, (Goal(1.0, Against.PEER),))


def _texts(lab: Lab, name: str, cpu: int | None, goals: tuple[Goal, ...]) -> Figure:
    count = lab.scaled(500, 100)
    numbers = itertools.count()
    with ExitStack() as stack:
        pin_again = _nothing
        if cpu is not None:
            pin_again = stack.enter_context(pinned(cpu, *lab.pids, daemon=cpu))
        floor = stack.enter_context(floors.ping_pong(256, 80, count, cpu))

        def contestant(side: Side) -> Contestant:
            line = stack.enter_context(side.driver.line())
            pin_again()
            path = side.driver.add_text("text-0000000000", b"first")
            size = len(LAST + string(path))

            def add() -> float:
                requests = iter([_text_request(name, next(numbers)) for _ in range(count)])
                return timed(lambda: line.ask(next(requests), size), count)

            return add

        series = lab.contest(contestant, floor)
    return Figure(name, "a round trip of such sizes", Unit.SECONDS, series, goals)


def _nothing() -> None:
    """Leave it to the kernel where processes run."""


def _text_request(salt: str, number: int) -> bytes:
    body = f"{salt} {number}\n".encode() * 4
    return text_request(f"text-{number:010}", body)


def file(lab: Lab) -> Iterator[Figure]:
    """Add a large file, by its own hash and by that of its archive."""
    size = lab.scaled(256, 64) * MIB
    data = bytearray(content.random_bytes(size))
    goals = (Goal(2.0),)
    for kind, add in (("flat", _add_flat), ("recursive", _add_recursive)):
        series = lab.contest(_adding(data, add), floors.hashing(data), lab.scaled(5, 3))
        name = f"add a file of {size // MIB} MiB, {kind}"
        yield Figure(name, "sha256 of the same bytes", Unit.SECONDS, series, goals)


def _add_flat(driver: Driver, data: bytearray) -> str:
    return driver.add_flat("large", data)


def _add_recursive(driver: Driver, data: bytearray) -> str:
    return driver.add_file("large", data)


def _adding(
    data: bytearray, add: Callable[[Driver, bytearray], str]
) -> Callable[[Side], Contestant]:
    numbers = itertools.count(1)

    def contestant(side: Side) -> Contestant:
        def once() -> float:
            # Nobody has this content yet.
            data[:8] = next(numbers).to_bytes(8, "little")
            paths: list[str] = []
            taken = timed(lambda: paths.append(add(side.driver, data)))
            empty(paths[0])
            return taken

        return once

    return contestant


def tree(lab: Lab) -> Iterator[Figure]:
    """Add a source tree of many small files."""
    files = lab.scaled(3000, 500)
    seeds = itertools.count(1)

    def contestant(side: Side) -> Contestant:
        def once() -> float:
            archive = content.tree_archive(files, next(seeds))
            pieces = [
                archive[at : at + content.PIECE] for at in range(0, len(archive), content.PIECE)
            ]
            return timed(lambda: side.driver.add_archive("tree", pieces))

        return once

    floor = floors.writing_files(lab.scratch / "files", [2560] * files)
    series = lab.contest(contestant, floor, lab.scaled(5, 3))
    goals = (Goal(1.0, Against.PEER),)
    name = f"add a tree of {files} files"
    yield Figure(name, "writing such files", Unit.SECONDS, series, goals)
