# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds with very many inputs, which cost time per input before anything runs."""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import apsw

from store.derivations import unparse_derivation
from store.nar import writer
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular
from store.paths import StorePath
from tests.benchmarks import driver, floors
from tests.benchmarks.figures import Against, Figure, Goal, Series, Unit
from tests.benchmarks.lab import Lab, Side
from tests.benchmarks.processes import descriptors
from tests.benchmarks.rounds import take_turns, timed
from tests.benchmarks.sampling import percentile, sampled

LIMITS = {10_000: (0.5, 0.010), 100_000: (6.0, 0.050)}
"""Seconds for a trivial build, and that others may wait for an answer, by the number of inputs."""

_REGISTER = "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, ?)"


def many(lab: Lab) -> Iterator[Figure]:
    """Build something trivial that may see 10,000, or 100,000, items, as others ask questions."""
    for count in lab.scaled(tuple(LIMITS), tuple(LIMITS)[:1]):
        sources = _sources(lab, count)
        bystander = _Bystander(lab.ours)

        def once(sources: list[StorePath] = sources, bystander: _Bystander = bystander) -> float:
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


@dataclass(slots=True)
class _Bystander:
    """A client that asks small questions while another one's build goes on."""

    side: Side
    longest: list[float] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    descriptors: list[tuple[int, int, int]] = field(default_factory=list)

    def watch(self, work: Callable[[], float]) -> float:
        """Ask all the while, and have a process asked that only answers, for comparison."""
        question = driver.path_request(driver.IS_VALID_PATH, self.side.builder)
        answer, pid = driver.truth_reply(1), self.side.driver.pid
        with ExitStack() as stack:
            line = stack.enter_context(self.side.driver.line())
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


def _sources(lab: Lab, count: int) -> list[StorePath]:
    """Put items into the store, files and directories in turn, as another daemon would."""
    directory = lab.ours.driver.store
    rows = []
    for number in range(count):
        text, name = b"%d of %d\n" % (number, count), f"input-{number}"
        path = directory.text_path(name, sha256(text).digest(), ())
        _write(Path(path), text, inside=number % 2 == 1)
        digest, size = _nar_hash(text, inside=number % 2 == 1)
        rows.append((path, f"sha256:{digest}", size))
    database = Path(directory.path).parent / "state" / "db" / "db.sqlite"
    connection = apsw.Connection(str(database))
    connection.set_busy_timeout(10_000)
    with connection:
        connection.executemany(_REGISTER, rows)
    connection.close()
    return [StorePath(path) for path, _, _ in rows]


def _write(item: Path, text: bytes, *, inside: bool) -> None:
    file = item / "file" if inside else item
    if inside:
        item.mkdir()
    file.write_bytes(text)
    for path, mode in ((file, 0o444), (item, 0o555 if inside else 0o444)):
        path.chmod(mode)
        os.utime(path, (1, 1))


def _nar_hash(text: bytes, *, inside: bool) -> tuple[str, int]:
    archive = b"".join(writer.write(_events(text, inside=inside)))
    return sha256(archive).hexdigest(), len(archive)


def _events(text: bytes, *, inside: bool) -> Iterator[NarEvent]:
    if inside:
        yield Directory(b"")
    yield Regular(b"file" if inside else b"", executable=False, size=len(text))
    yield Content(memoryview(text))
    if inside:
        yield DirectoryEnd()
