# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of content sources: hashes of files and directories, and when these hold.

It is kept when a source goes away, and when the daemon ends, so that nothing is
hashed again that has not changed. All of it is hints: whoever copies, hashes the copy.
Each connection is for one thread. Entry point: `Catalogue`.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

from store.database.connection import translated_errors
from store.hashes import Digest, HashAlgorithm
from store.side_file import connect, writing

_TABLES = """
create table if not exists SourceEntries (
    id integer primary key,
    source text not null,
    path blob not null,
    tree integer not null,
    size integer not null,
    stamp blob not null,
    seen integer not null,
    unique (source, path, tree)
);
create table if not exists SourceHashes (
    entry integer not null references SourceEntries (id),
    algorithm text not null,
    hash blob not null,
    primary key (entry, algorithm)
) without rowid;
create index if not exists SourceHashesByHash on SourceHashes (hash)"""
_ENTRY = "select id, stamp, seen from SourceEntries where source = ? and path = ? and tree = ?"
_ALGORITHMS = "select algorithm from SourceHashes where entry = ?"
_SEEN = "update SourceEntries set seen = ? where id = ?"
_ADD = """
insert into SourceEntries (source, path, tree, size, stamp, seen) values (?, ?, ?, ?, ?, ?)
returning id"""
_ADD_HASH = "insert into SourceHashes (entry, algorithm, hash) values (?, ?, ?)"
_DROP_HASHES = "delete from SourceHashes where entry = ?"
_DROP = "delete from SourceEntries where id = ?"
_FIND = """
select id, source, path, size, stamp from SourceHashes join SourceEntries on id = entry
 where hash = ? and algorithm = ? and tree = ? order by seen desc limit ?"""
_COUNT = "select tree, count(*) from SourceEntries where source = ? group by tree"
_OLDEST = """
select id from SourceEntries order by seen
 limit max(0, (select count(*) from SourceEntries) - ?)"""
_IN_USE = "select distinct algorithm from Contents where not recursive"

MOST_ENTRIES = 1_000_000
"""Files and directories kept, some 300 bytes of disk each; those not seen for longest go first."""

_MOST_FOUND = 8
# How often the time at which something was seen is written, in seconds.
_SEEN_EVERY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Entry:
    """Something with a certain content.

    Attributes:
        number: Its row.
        source: The directory of the content source.
        path: Where it is below that.
        size: Bytes of its archive form, or a few more.
        stamp: What it looked like when it was hashed; see `hashing`.
    """

    number: int
    source: str
    path: str
    size: int
    stamp: bytes


class Catalogue:
    """A connection to the catalogue.

    Args:
        file: `Layout.index_file`.
    """

    def __init__(self, file: str) -> None:
        self._connection = connect(file, _TABLES)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def algorithms_in_use(self) -> frozenset[HashAlgorithm]:
        """Return sha256, and by which others files of the store are known."""
        used = {str(word) for (word,) in self._rows(_IN_USE)}
        known = {each for each in HashAlgorithm if each.value in used}
        return frozenset({HashAlgorithm.SHA256, *known})

    def is_current(
        self, source: str, path: str, stamp: bytes, algorithms: Iterable[str], *, tree: bool
    ) -> bool:
        """Tell whether something is known as it looks now, by all of these algorithms."""
        rows = self._rows(_ENTRY, source, os.fsencode(path), tree)
        if not rows or rows[0][1] != stamp:
            return False
        number, _, seen = rows[0]
        known = {algorithm for (algorithm,) in self._rows(_ALGORITHMS, number)}
        if not known.issuperset(algorithms):
            return False
        now = int(time.time())
        if now - seen > _SEEN_EVERY:
            self._change([(_SEEN, (now, number))])
        return True

    def record(self, entry: Entry, hashes: Mapping[HashAlgorithm, bytes], *, tree: bool) -> None:
        """Write down what has which hashes, in place of what was known before."""
        with self._writing():
            execute = self._connection.execute
            path = os.fsencode(entry.path)
            for number, _, _ in execute(_ENTRY, (entry.source, path, tree)).fetchall():
                execute(_DROP_HASHES, (number,))
                execute(_DROP, (number,))
            now = int(time.time())
            new = execute(_ADD, (entry.source, path, tree, entry.size, entry.stamp, now)).get
            for algorithm, value in hashes.items():
                execute(_ADD_HASH, (new, algorithm.value, value))

    def prune(self) -> int:
        """Drop what is too much, and tell how many entries that was."""
        rows = self._rows(_OLDEST, MOST_ENTRIES)
        self._change((statement, row) for row in rows for statement in (_DROP_HASHES, _DROP))
        return len(rows)

    def find(self, content: Digest, *, tree: bool) -> Iterator[Entry]:
        """Yield what had some content, what was seen last first."""
        rows = self._rows(_FIND, content.value, content.algorithm.value, tree, _MOST_FOUND)
        for number, source, path, size, stamp in rows:
            yield Entry(number, source, os.fsdecode(path), size, stamp)

    def forget(self, number: int) -> None:
        """Drop something that is not what it was."""
        self._change([(_DROP_HASHES, (number,)), (_DROP, (number,))])

    def count(self, source: str) -> tuple[int, int]:
        """Return how many files and directories of a source are known."""
        counts = dict(self._rows(_COUNT, source))
        return counts.get(0, 0), counts.get(1, 0)

    def _rows(self, statement: str, *bindings: Any) -> list[tuple[Any, ...]]:
        with translated_errors("cannot read the catalogue of content sources"):
            rows = self._connection.execute(statement, bindings).fetchall()
        return cast("list[tuple[Any, ...]]", rows)

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self._connection, "the catalogue of content sources")

    def _change(self, statements: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        with self._writing():
            for statement, bindings in statements:
                self._connection.execute(statement, bindings)
