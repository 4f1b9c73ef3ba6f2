# SPDX-License-Identifier: GPL-3.0-or-later
"""`StoreDatabase`: everything the rest asks of the database or tells it."""

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw
import trio

from store import filelocks
from store.database import ancestry, bulk, garbage, schema, writes
from store.database.checkpoints import Checkpointer
from store.database.connection import open_connection, patient_reads
from store.database.fairlock import FairLock
from store.database.garbage import Garbage, Keeping
from store.database.pool import Connections
from store.database.reads import DatabaseReads
from store.database.writer import Writer, WriterStatistics
from store.database.writes import NewItem
from store.filelocks import LockMode
from store.hashes import Digest
from store.layout import Layout
from store.paths import StorePath
from store.tally import CacheStatistics

# Beyond so many rows a change takes longer than a trip to a thread.
_BIG_CHANGE_ROWS = 64

Result = TypeVar("Result")


class StoreDatabase(DatabaseReads):
    """The database of one store, shared with other processes.

    Look-ups are plain methods, for the event loop's thread only; changes and
    bulk queries are coroutines. Make one with `open`.
    """

    def __init__(self, layout: Layout, connections: Connections) -> None:
        super().__init__(connections.loop, layout)
        self._connections = connections
        self._file = layout.database_file
        lock = FairLock()
        self._checkpointer = Checkpointer(layout.database_file, lock)
        self._writer = Writer(connections.loop, connections.thread, lock, self._checkpointer)
        patient_reads(connections.loop, lambda: self._writer.writing)
        connections.loop.set_wal_hook(self._checkpointer.note)
        connections.thread.set_wal_hook(self._checkpointer.note)

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: Layout) -> AsyncIterator["StoreDatabase"]:
        """Open the database, made where it is absent, for as long as the context lasts.

        Raises:
            DatabaseError: It has another schema, or is damaged.
        """
        async with AsyncExitStack() as stack:
            stack.callback(os.close, await _hold_big_lock(layout))
            await trio.to_thread.run_sync(_prepare, layout)
            connections = await trio.to_thread.run_sync(Connections, layout.database_file)
            stack.push_async_callback(_close, connections)
            yield cls(layout, connections)

    async def run(self) -> None:
        """Keep the write-ahead log short, until cancelled: a task for as long as this serves."""
        await self._checkpointer.run()

    def statistics(self) -> WriterStatistics:
        """Tell how writing goes."""
        return self._writer.statistics()

    def caches(self) -> tuple[CacheStatistics, ...]:
        """Tell how SQLite's caches do, of the connection for look-ups."""
        return self._connections.caches()

    async def register(self, items: Sequence[NewItem]) -> None:
        """Make items valid, all or none; of those that are, renew hash and size.

        Raises:
            NotValidError: A reference is neither valid nor among the items.
            StoreError: Items refer to each other in a circle (reason ``cycle``).
        """
        rows = len(items) + sum([len(item.info.references) for item in items])
        await self._writer.run(partial(writes.register, items=items), big=rows > _BIG_CHANGE_ROWS)

    async def invalidate(self, path: StorePath) -> None:
        """Forget an item; nothing happens where it is not valid.

        Raises:
            StoreError: Another item refers to it (reason ``in-use``).
        """
        await self._writer.run(partial(writes.invalidate, path=path))

    async def update_hash(self, path: StorePath, digest: Digest, size: int) -> None:
        """Correct hash and size of a valid item.

        Raises:
            NotValidError: There is no such item.
        """
        await self._writer.run(partial(writes.update_hash, path=path, digest=digest, size=size))

    async def register_failed(self, paths: Iterable[StorePath]) -> None:
        """Remember that building these outputs failed for good."""
        await self._writer.run(partial(writes.register_failed, paths=list(paths)))

    async def clear_failed(self, paths: Iterable[str]) -> None:
        """Forget failures of outputs, of the outputs of derivations, or with ``*`` all."""
        chosen = list(paths)
        big = "*" in chosen or len(chosen) > _BIG_CHANGE_ROWS
        await self._writer.run(partial(writes.clear_failed, paths=chosen), big=big)

    async def closure(self, paths: Iterable[str]) -> frozenset[StorePath]:
        """Return items and all that they refer to, however remotely.

        Raises:
            NotValidError: One of the items given is not valid.
        """
        return await self._in_thread(partial(bulk.closure, paths=list(paths)))

    async def valid_subset(self, paths: Iterable[str]) -> frozenset[StorePath]:
        """Return those of many paths that are valid."""
        return await self._in_thread(partial(bulk.valid_subset, paths=list(paths)))

    async def all_valid_paths(self) -> frozenset[StorePath]:
        """Return every registered item."""
        return await self._in_thread(bulk.all_valid_paths)

    async def hashes_after(self, row: int, limit: int) -> list[tuple[int, str, str]]:
        """Return number, path and hash of the rows with the next higher numbers, sorted."""
        return await self._in_thread(partial(bulk.hashes_after, row=row, limit=limit))

    async def failed_paths(self) -> frozenset[StorePath]:
        """Return every output remembered as failed."""
        return await self._in_thread(bulk.failed_paths)

    async def referrers_among(self, paths: Iterable[str]) -> dict[StorePath, list[StorePath]]:
        """Return which of some items refer to which others, by the latter."""
        return await self._in_thread(partial(bulk.referrers_among, paths=list(paths)))

    async def find_garbage(
        self, roots: Iterable[str], keeping: Keeping, uses: str | None = None
    ) -> Garbage:
        """Return the items that no root reaches; see `store.database.garbage.find_garbage`."""
        chosen = frozenset(roots)
        return await self._in_thread(
            partial(garbage.find_garbage, roots=chosen, keeping=keeping, uses=uses)
        )

    async def find_live(self, roots: Iterable[str], keeping: Keeping) -> frozenset[StorePath]:
        """Return the items that some root reaches."""
        chosen = frozenset(roots)
        return await self._in_thread(partial(garbage.find_live, roots=chosen, keeping=keeping))

    async def shortest_chains(
        self, path: str, roots: Iterable[str], keeping: Keeping
    ) -> list[list[StorePath]]:
        """Return, for each root that keeps an item, a shortest way from the root's item to it.

        Raises:
            NotValidError: There is no such item.
        """
        query = partial(ancestry.shortest_chains, path=path, roots=set(roots), keeping=keeping)
        return await self._in_thread(query)

    async def paths_of(self, ids: Sequence[int]) -> dict[int, StorePath]:
        """Return the paths of rows by their numbers; those that are gone are left out."""
        return await self._in_thread(partial(garbage.paths_of, ids=ids))

    async def forget(self, ids: Sequence[int]) -> list[int]:
        """Make rows invalid, referrers first; return those that something refers to after all.

        What was done is on disk when this returns, so that nothing which is then
        deleted can be valid again after a crash of the machine.
        """
        refused = await self._writer.run(partial(garbage.forget, ids=ids), big=True)
        await trio.to_thread.run_sync(self._sync_log)
        return refused

    def _sync_log(self) -> None:
        # The log, not the database: closing another descriptor of that would drop its locks.
        with suppress(FileNotFoundError), open(f"{self._file}-wal", "rb") as log:
            os.fdatasync(log.fileno())

    async def _in_thread(self, query: Callable[[apsw.Connection], Result]) -> Result:
        async with self._connections.borrowed() as connection:
            return await trio.to_thread.run_sync(query, connection)


async def _hold_big_lock(layout: Layout) -> int:
    """Open the lock that keeps the schema as it is, and hold it shared."""
    fd = await trio.to_thread.run_sync(_open_big_lock, layout)
    try:
        if not filelocks.try_lock(fd, LockMode.SHARED):
            # Abandoned, the thread gets its lock some day, and drops it with the open file.
            await trio.to_thread.run_sync(
                filelocks.wait, fd, LockMode.SHARED, abandon_on_cancel=True
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_big_lock(layout: Layout) -> int:
    Path(layout.database).mkdir(parents=True, exist_ok=True)
    return filelocks.open_lock_file(layout.big_lock)


def _prepare(layout: Layout) -> None:
    """Make the database where no schema is stated; otherwise see that we know its schema."""
    if schema.check_version(layout):
        return
    with _alone(layout.database):
        if schema.check_version(layout):
            return
        connection = open_connection(layout.database_file, create=True)
        try:
            connection.set_busy_timeout(60_000)
            schema.create(connection, layout)
        finally:
            connection.close()


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Keep other daemons of ours from making a database there meanwhile.

    SQLite does not wait for another connection that changes the journal's mode.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


async def _close(connections: Connections) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(connections.close)
