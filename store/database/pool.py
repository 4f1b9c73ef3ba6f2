# SPDX-License-Identifier: GPL-3.0-or-later
"""The connections of one process: for the event loop, for big changes, for bulk queries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import apsw
import trio

from store.database.connection import begin_log, open_connection, translated_errors
from store.tally import CacheStatistics, Rule, Tally

# Each bulk query has a connection while it runs; more at once would only share the CPUs.
_BULK_QUERIES = 4

_PAGE_COUNTERS = (
    apsw.SQLITE_DBSTATUS_CACHE_USED,
    apsw.SQLITE_DBSTATUS_CACHE_HIT,
    apsw.SQLITE_DBSTATUS_CACHE_MISS,
)


class Connections:
    """Opened by a thread, closed by a thread: the last to close a database syncs it.

    Attributes:
        loop: For look-ups and small changes on the event loop.
        thread: For big changes, one at a time.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.loop = open_connection(path)
        self.thread = open_connection(path)
        with suppress(apsw.BusyError), translated_errors("cannot write the store database"):
            begin_log(self.thread)
        self._idle: list[apsw.Connection] = []
        self._limit = trio.CapacityLimiter(_BULK_QUERIES)

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[apsw.Connection]:
        """Lend a connection to one bulk query, when few enough are running."""
        async with self._limit:
            connection = (
                self._idle.pop()
                if self._idle
                else await trio.to_thread.run_sync(open_connection, self._path)
            )
            try:
                yield connection
            finally:
                self._idle.append(connection)

    def caches(self) -> tuple[CacheStatistics, ...]:
        """Tell how the caches of the loop's connection do."""
        return _statements(self.loop), _pages(self.loop)

    def close(self) -> None:
        """Close all of them; for a thread."""
        for connection in (*self._idle, self.thread, self.loop):
            connection.close()


def _statements(connection: apsw.Connection) -> CacheStatistics:
    found = connection.cache_stats(include_entries=True)
    # What the stub takes for a number is a list here.
    entries = cast("list[object]", found["entries"])
    tally = Tally(found["hits"], found["misses"], found["evictions"], Rule.UNUSED)
    return tally.of_entries("database-statements", len(entries), found["size"])


def _pages(connection: apsw.Connection) -> CacheStatistics:
    used, hits, misses = (connection.status(each)[0] for each in _PAGE_COUNTERS)
    size = int(str(connection.pragma("page_size")))
    entries = used // size
    # Each miss reads a page in; those that are not there any more had to make room.
    tally = Tally(hits, misses, max(misses - entries, 0), Rule.UNUSED)
    # A negative size is one in KiB, and counts pages without what SQLite adds to each.
    limit = -int(str(connection.pragma("cache_size"))) * 1024
    return tally.of_bytes("database-pages", entries, used, limit + limit // 8)
