# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds with very many inputs, which cost time per input before anything runs."""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import apsw

from store.derivations import unparse_derivation
from store.nar import writer
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular
from store.paths import StorePath
from tests.benchmarks import floors
from tests.benchmarks.figures import Against, Figure, Goal, Unit
from tests.benchmarks.lab import Lab
from tests.benchmarks.rounds import take_turns

LIMITS = {10_000: 0.5, 100_000: 6.0}
"""Seconds for a trivial build, by the number of its inputs."""

_REGISTER = "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, ?)"


def many(lab: Lab) -> Iterator[Figure]:
    """Build something trivial that may see 10,000, or 100,000, items."""
    for count in lab.scaled(tuple(LIMITS), tuple(LIMITS)[:1]):
        sources = _sources(lab, count)

        def once(sources: list[StorePath] = sources) -> float:
            recipe = lab.ours.recipes.make(sources=sources)
            lab.ours.add([recipe])
            assert len(unparse_derivation(recipe.derivation)) > len(sources)
            return lab.ours.build([recipe])[0]

        with floors.bare_containers(lab.program, lab.scratch / f"inputs-{count}", 10) as floor:
            series = take_turns(3, once, floor=floor)
        goals = (Goal(LIMITS[count], Against.NOTHING),)
        yield Figure(f"build with {count} inputs", "a bare container", Unit.SECONDS, series, goals)


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
