# SPDX-License-Identifier: GPL-3.0-or-later
"""When items were used last, so that garbage which somebody used lately can go last.

An item counts as used when a session makes it a temporary root: when it is
built or built with, added again, or asked to be kept. What it refers to counts
as used with it, but that is the collector's business. The times are kept in an
SQLite file of our own, which the C++ daemon does not know, and are written by a
thread, many at a time; a crash loses those of the last minute. Entry point:
`LastUses.open`.
"""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice

import apsw
import trio

from store.errors import DatabaseError
from store.layout import Layout
from store.paths import StorePath
from store.side_file import opened, writing
from store.tally import CacheStatistics, Tally

_TABLE = """
create table if not exists LastUses (
    path text primary key not null,
    time integer not null
) without rowid"""
_RECORD = "insert or replace into LastUses (path, time) values (?, ?)"
_FORGET = "delete from LastUses where path = ?"

# Seconds between two writings; items in memory before they are written, or else dropped.
_INTERVAL = 60
_WRITTEN_AT = 16_384
_MOST_PENDING = 65_536


class LastUses:
    """Remembers last uses; make one with `open`.

    Attributes:
        file: The database file, which has a table ``LastUses`` of paths and times.
    """

    def __init__(self, file: str, writer: apsw.Connection) -> None:
        self.file = file
        self._writer = writer
        self._pending: dict[str, int] = {}
        self._tally = Tally()
        self._due = trio.Event()
        self._writing = trio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: Layout) -> AsyncIterator["LastUses"]:
        """Open the record, made where it is absent, for as long as the context lasts.

        Raises:
            DatabaseError: The file is damaged; it may be deleted.
        """
        async with opened(layout.index_file, _TABLE) as writer:
            uses = cls(layout.index_file, writer)
            try:
                yield uses
            finally:
                with trio.CancelScope(shield=True):
                    await uses.flush()

    async def run(self) -> None:
        """Write what was recorded, once in a while, until cancelled."""
        while True:
            with trio.move_on_after(_INTERVAL):
                await self._due.wait()
            self._due = trio.Event()
            await self.flush()

    def record(self, paths: Iterable[StorePath]) -> None:
        """Note that items are used now."""
        now = int(time.time())
        self._pending.update(dict.fromkeys(paths, now))
        if (excess := len(self._pending) - _MOST_PENDING) > 0:
            # At once: a dictionary's oldest entry takes longer to find with each that has gone.
            self._pending = dict(islice(self._pending.items(), excess, None))
            self._tally.evictions += excess
        if len(self._pending) >= _WRITTEN_AT:
            self._due.set()

    def statistics(self) -> CacheStatistics:
        """Return how what is not written yet stands; evictions are lost entries."""
        return self._tally.of_entries("last-uses-unwritten", len(self._pending), _MOST_PENDING)

    async def flush(self) -> None:
        """Write what was recorded; what cannot be written waits for the next time."""
        async with self._writing:
            batch = self._pending
            if not batch:
                return
            self._pending = {}
            try:
                await trio.to_thread.run_sync(_write, self._writer, _RECORD, list(batch.items()))
            except DatabaseError:
                self._pending = {**batch, **self._pending}

    async def forget(self, paths: Iterable[str]) -> None:
        """Drop items that are gone; failing that, they only take up space."""
        rows = [(path,) for path in paths]
        for (path,) in rows:
            self._pending.pop(path, None)
        async with self._writing:
            try:
                await trio.to_thread.run_sync(_write, self._writer, _FORGET, rows)
            except DatabaseError:
                return


def _write(connection: apsw.Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    with writing(connection, "the record of last uses"):
        connection.executemany(statement, rows)
