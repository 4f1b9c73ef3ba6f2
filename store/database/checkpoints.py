# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving the write-ahead log into the database, away from the event loop.

A commit with ``synchronous=normal`` syncs nothing, but a checkpoint syncs both
files, and so does the first commit after the log has started over. Both happen
here, in a thread: most pages move while writers go on, behind a snapshot that
keeps the log from starting over under them; then, for a moment, writers wait
while the rest moves and the log starts over.
"""

import apsw
import trio

from store.database.connection import begin_log, open_connection, translated_errors
from store.database.fairlock import FairLock
from store.errors import DatabaseError

# The log's pages, of 4 KiB, after which it is moved; it may grow meanwhile.
_LIMIT_PAGES = 4096


class Checkpointer:
    """Keeps the write-ahead log short.

    `note` is the hook of each connection that writes, by which it learns the log's
    length; `wake` is for the event loop, after a write; `run` is its task.
    """

    def __init__(self, path: str, lock: FairLock, limit_pages: int = _LIMIT_PAGES) -> None:
        self._path = path
        self._lock = lock
        self._limit = limit_pages
        self._next = limit_pages
        self._pages = 0
        self._due = trio.Event()
        self._done = 0
        self._failure: str | None = None

    @property
    def pages(self) -> int:
        """How long the log is, as far as is known."""
        return self._pages

    @property
    def done(self) -> int:
        """How often the log was moved."""
        return self._done

    @property
    def failure(self) -> str | None:
        """Why it could not be moved the last time, such as for want of disk space."""
        return self._failure

    def note(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """Learn the length of the log after a commit, in the thread that made it."""
        self._pages = pages
        return apsw.SQLITE_OK

    def wake(self) -> None:
        """Have the log moved if it is long."""
        if self._pages >= self._next:
            self._due.set()

    async def run(self) -> None:
        """Move the log whenever it is long, until cancelled."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            try:
                await self._checkpoint()
                self._failure = None
            except DatabaseError as error:
                self._failure = error.message
            # A reader of another process may keep some pages; try again after as many more.
            self._next = self._pages + self._limit if self._pages >= self._limit else self._limit

    async def _checkpoint(self) -> None:
        move = await trio.to_thread.run_sync(_Move, self._path)
        try:
            await trio.to_thread.run_sync(move.most)
            async with self._lock:
                pages = await trio.to_thread.run_sync(move.rest)
                if pages is not None:
                    self._pages = pages
                    self._done += 1
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(move.close)


class _Move:
    """One checkpoint, in three steps, each for a thread."""

    def __init__(self, path: str) -> None:
        self._mover = open_connection(path)
        self._snapshot = open_connection(path)
        self._snapshot.execute("begin; select 1 from ValidPaths limit 1").fetchall()

    def most(self) -> None:
        """Move what the log holds, but for what is written meanwhile."""
        with translated_errors("cannot move the write-ahead log"):
            self._mover.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def rest(self) -> int | None:
        """Move the rest and start the log over; return its pages, None where that must wait."""
        self._snapshot.execute("rollback")
        try:
            with translated_errors("cannot move the write-ahead log"):
                self._mover.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
                begin_log(self._mover)
        except apsw.BusyError:
            return None
        return 1

    def close(self) -> None:
        """Close what the steps used."""
        self._snapshot.close()
        self._mover.close()
