# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling a store with many items at once, as another daemon on the same database would."""

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import apsw

from store.nar import writer
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular
from store.paths import StoreDirectory, StorePath

_REGISTER = "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, ?)"
_REFER = """
insert into Refs (referrer, reference)
select a.id, b.id from ValidPaths a join ValidPaths b on b.path = ?2 where a.path = ?1"""


def stock(
    store: StoreDirectory, database: Path, names: Iterable[str], references: int = 0
) -> list[StorePath]:
    """Put items into a store, files and directories in turn.

    Args:
        store: The store.
        database: Its file.
        names: Of the items.
        references: To how many of those before it each item refers.
    """
    rows = []
    for number, name in enumerate(names):
        text, inside = name.encode(), number % 2 == 1
        path = store.text_path(name, sha256(text).digest(), ())
        write_item(Path(path), text, inside=inside)
        digest, size = _nar_hash(text, inside=inside)
        rows.append((path, f"sha256:{digest}", size))
    connection = apsw.Connection(str(database))
    connection.set_busy_timeout(10_000)
    with connection:
        connection.executemany(_REGISTER, rows)
        connection.executemany(
            _REFER,
            (
                (rows[number][0], rows[number - distance][0])
                for number in range(references, len(rows))
                for distance in range(1, references + 1)
            ),
        )
    connection.close()
    return [StorePath(path) for path, _, _ in rows]


def write_item(item: Path, text: bytes, *, inside: bool) -> None:
    """Make a file, or a directory with the file in it, as they lie in a store."""
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
