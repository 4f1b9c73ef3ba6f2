# SPDX-License-Identifier: GPL-3.0-or-later
"""The connections of one process: for the event loop, for big changes, for bulk queries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import apsw
import trio

from store.database.connection import begin_log, open_connection, translated_errors

# Each bulk query has a connection while it runs; more at once would only share the CPUs.
_BULK_QUERIES = 4


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

    def close(self) -> None:
        """Close all of them; for a thread."""
        for connection in (*self._idle, self.thread, self.loop):
            connection.close()
