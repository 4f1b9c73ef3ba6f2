# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of attempts: what was built when, beside how much else, and how that ended.

It lies in our own SQLite file beside the shared database, and is bounded. Recording
is a hint for later builds, so it is written by a thread after the fact; what was
recorded but not written is found all the same. Entry point: `History`.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import apsw
import trio

from builder.retries.policy import Cause, Quiet, quiet_to_begin_with
from builder.retries.records import Attempt, Flaky
from store.layout import Layout
from store.paths import StorePath
from store.side_file import opened

_COLUMNS = ", ".join(Attempt._fields)
_MARKS = ", ".join("?" for _ in Attempt._fields)
_TABLE = """
create table if not exists Attempts (
    sequence integer primary key autoincrement,
    drv text not null, name text not null, number integer not null,
    started real not null, seconds real not null, cause text not null, detail text not null,
    quiet integer not null, beside integer not null, cores integer not null,
    load_before real not null, load_after real not null,
    memory_before integer not null, memory_after integer not null,
    peak_memory integer not null, cpu_seconds real not null, log_file text not null
);
create index if not exists AttemptsByDrv on Attempts (drv);
create index if not exists AttemptsByName on Attempts (name, sequence);
create index if not exists AttemptsThatNeededQuiet on Attempts (name)
 where cause = 'success' and quiet > 0;
"""
_RECORD = f"insert into Attempts ({_COLUMNS}) values ({_MARKS})"  # noqa: S608 - names of fields
_OF_DRV = f"select {_COLUMNS} from Attempts where drv = ? order by sequence desc limit ?"  # noqa: S608
_OF_NAME = f"select {_COLUMNS} from Attempts where name = ? order by sequence desc limit ?"  # noqa: S608
_PEAKS_OF_NAME = "select peak_memory from Attempts where name = ? order by sequence desc limit ?"
_NEEDED_QUIET = "select distinct name from Attempts where cause = 'success' and quiet > 0"
_FLAKY = """
select name,
       sum(number - 1) as failures, count(*) as passes,
       (select quiet from Attempts last where last.name = passed.name and last.cause = 'success'
         order by sequence desc limit 1) as quiet,
       max(started) as last
  from Attempts passed
 where cause = 'success' and number > 1
 group by name order by last desc limit ?"""
_PRUNE = "delete from Attempts where sequence <= (select max(sequence) - ? from Attempts)"

MOST_ATTEMPTS = 200_000
"""Attempts that are kept, some 300 bytes of disk each; the oldest go first."""

_WRITTEN_AT = 64
_LOOKED_AT = 8


class History:
    """Remembers attempts; make one with `open`."""

    def __init__(
        self, reader: apsw.Connection, writer: apsw.Connection, needed_quiet: set[str]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._pending: list[Attempt] = []
        self._writing: list[Attempt] = []
        self._needed_quiet = needed_quiet  # few do, and each build asks
        self._lock = trio.Lock()
        self._due = trio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: Layout) -> AsyncIterator["History"]:
        """Open the record, made where it is absent, for as long as the context lasts.

        Raises:
            DatabaseError: The file is damaged; it may be deleted.
        """
        path = layout.index_file
        async with opened(path, _TABLE) as writer, opened(path, _TABLE) as reader:
            names = await trio.to_thread.run_sync(_query, reader, _NEEDED_QUIET, ())
            history = cls(reader, writer, {str(name) for (name,) in names})
            try:
                yield history
            finally:
                with trio.CancelScope(shield=True):
                    await history.flush()

    async def run(self) -> None:
        """Write what was recorded whenever enough came together, until cancelled."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await self.flush()

    def record(self, attempt: Attempt) -> None:
        """Remember an attempt."""
        self._pending.append(attempt)
        succeeded = attempt.succeeded
        needed_quiet = succeeded and attempt.quiet is not Quiet.USUAL
        if needed_quiet and len(self._needed_quiet) < MOST_ATTEMPTS:
            self._needed_quiet.add(attempt.name)
        # Failures are rare, and whoever sees one may ask at once, perhaps another process.
        if len(self._pending) >= _WRITTEN_AT or not succeeded:
            self._due.set()

    def of_derivation(self, drv: StorePath, most: int = 100) -> list[Attempt]:
        """Return the attempts at building a derivation, the latest first."""
        unwritten = [each for each in self._unwritten() if each.drv == drv]
        return [*unwritten, *self._read(_OF_DRV, drv, most)][:most]

    def of_name(self, name: str, most: int = _LOOKED_AT) -> list[Attempt]:
        """Return the attempts at building any derivation of a name, the latest first."""
        unwritten = [each for each in self._unwritten() if each.name == name]
        return [*unwritten, *self._read(_OF_NAME, name, most)][:most]

    def quiet_of_name(self, name: str) -> Quiet:
        """Return how quiet it had to be when a derivation of a name was last built."""
        if name not in self._needed_quiet:
            return Quiet.USUAL
        return quiet_to_begin_with(each.quiet for each in self.of_name(name) if each.succeeded)

    def peak_of_name(self, name: str) -> int:
        """Return the most bytes that the latest builds of any derivation of a name needed."""
        peaks = [each.peak_memory for each in self._unwritten() if each.name == name]
        written = _query(self._reader, _PEAKS_OF_NAME, (name, _LOOKED_AT))
        return max([*peaks, *(int(peak) for (peak,) in written)], default=0)

    async def flaky(self, most: int = 1000) -> list[Flaky]:
        """Return what failed and then passed when it was quieter, the latest first."""
        await self.flush()
        rows = await trio.to_thread.run_sync(_query, self._reader, _FLAKY, (most,))
        return [
            Flaky(str(name), int(failures), int(passes), Quiet(int(quiet)), float(last))
            for name, failures, passes, quiet, last in rows
        ]

    async def flush(self) -> None:
        """Write what was recorded."""
        async with self._lock:
            self._writing, self._pending = self._pending, []
            if self._writing:
                await trio.to_thread.run_sync(self._write, self._writing)
                self._writing = []

    def _unwritten(self) -> Iterator[Attempt]:
        return chain(reversed(self._pending), reversed(self._writing))

    def _read(self, statement: str, *bindings: str | int) -> list[Attempt]:
        return [_attempt(row) for row in _query(self._reader, statement, bindings)]

    def _write(self, attempts: list[Attempt]) -> None:
        try:
            with self._writer:
                self._writer.executemany(_RECORD, attempts)
                self._writer.execute(_PRUNE, (MOST_ATTEMPTS,))
        except apsw.Error:
            # Likewise: a full disk must not end builds for the sake of their record.
            return


def _query(
    connection: apsw.Connection, statement: str, bindings: tuple[str | int, ...]
) -> list[tuple[Any, ...]]:
    try:
        return connection.execute(statement, bindings).fetchall()
    except apsw.Error:
        # A record that cannot be read is none; builds go on without it.
        return []


def _attempt(row: tuple[Any, ...]) -> Attempt:
    found = Attempt._make(row)
    return found._replace(cause=Cause(found.cause), quiet=Quiet(found.quiet))
