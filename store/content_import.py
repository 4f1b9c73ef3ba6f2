# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing what is registered into the content index, whoever registered it.

The database has the hash of each item's archive form, but no way to find an item by
it. So what is new in it, which has the higher row numbers, is read little by little
in the background, beginning where the last daemon left off. Entry point:
`ContentImport.run`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import apsw
import structlog
import trio

from store.content_index import ContentIndex
from store.database import StoreDatabase
from store.errors import InvalidHashError, StoreError
from store.hashes import Digest
from store.layout import Layout
from store.paths import StorePath, is_derivation
from store.side_file import connect

_TABLE = """
create table if not exists ContentCursor (
    only integer primary key check (only = 0),
    row integer not null
)"""
_READ = "select row from ContentCursor"
_WRITE = "insert or replace into ContentCursor (only, row) values (0, ?)"

# Rows at a time, seconds between two times, and between looking for what is new. A store
# of a Guix machine has some 100,000 items.
_ROWS = 1000
_PAUSE = 0.05
_INTERVAL = 60.0
_SWEEP_INTERVAL = 6 * 3600.0

log = structlog.get_logger("store")


@dataclass(slots=True)
class ContentImport:
    """Feeds the content index.

    Attributes:
        layout: Of the store.
        database: What is registered.
        index: Which item has which content.
    """

    layout: Layout
    database: StoreDatabase
    index: ContentIndex

    async def run(self) -> None:
        """Import what is registered, and remove links to what is gone, until cancelled."""
        swept = float("-inf")
        while True:
            try:
                await self.import_new()
                if trio.current_time() - swept > _SWEEP_INTERVAL:
                    swept = trio.current_time()
                    await self.index.sweep_links()
            except (StoreError, OSError) as error:
                # It is all hints; the next time may do better.
                log.warning("content_not_imported", reason=str(error))
            await trio.sleep(_INTERVAL)

    async def import_new(self) -> int:
        """Import what was registered since the last time; return how many rows that was."""
        connection = await trio.to_thread.run_sync(connect, self.layout.index_file, _TABLE)
        try:
            return await self._import(connection)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(connection.close)

    async def _import(self, connection: apsw.Connection) -> int:
        row, count = connection.execute(_READ).get or 0, 0
        while rows := await self.database.hashes_after(row, _ROWS):
            self._record(rows)
            await self.index.flush()
            row, count = rows[-1][0], count + len(rows)
            await trio.to_thread.run_sync(connection.execute, _WRITE, (row,))
            await trio.sleep(_PAUSE)
        return count

    def _record(self, rows: Sequence[tuple[int, str, str]]) -> None:
        for _, path, text in rows:
            if is_derivation(path):
                continue
            try:
                digest = Digest.parse_prefixed(text)
            except InvalidHashError:
                continue  # not for us to complain about: `verify` does
            if self.index.lookup(digest, recursive=True) is None:
                self.index.record(digest, StorePath(path), recursive=True)
