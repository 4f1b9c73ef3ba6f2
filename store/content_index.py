# SPDX-License-Identifier: GPL-3.0-or-later
"""Which item holds some content, by the content's own hash.

Items are named by other things than their contents, and `.links` by the hash of
a file's archive form; fixed outputs are known beforehand by the plain hash of
a file or archive. This index leads from there to an item. It is a hint in an
SQLite file of our own: entries are lost when the machine crashes, and an item
may be gone, so whoever looks something up must see that it is valid. What is
recorded is kept in memory first and written by a thread, so that recording
costs an addition next to nothing.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import apsw
import trio

from store.database.connection import translated_errors
from store.errors import DatabaseError
from store.hashes import Digest
from store.layout import Layout
from store.paths import StorePath
from store.side_file import connect

_Key = tuple[str, bytes, bool]

_TABLE = """
create table if not exists Contents (
    sequence integer primary key autoincrement,
    algorithm text not null,
    hash blob not null,
    recursive integer not null,
    path text not null,
    unique (algorithm, hash, recursive)
)"""
_RECORD = "insert or replace into Contents (algorithm, hash, recursive, path) values (?, ?, ?, ?)"
_FIND = "select path from Contents where algorithm = ? and hash = ? and recursive = ?"
_FORGET = "delete from Contents where algorithm = ? and hash = ? and recursive = ?"
_PRUNE = "delete from Contents where sequence <= (select max(sequence) - ? from Contents)"

#: Entries kept, about 200 bytes of disk each; the oldest go first.
_MOST_ENTRIES = 1_000_000
# Entries in memory before they are written, and before the oldest are dropped instead.
_WRITTEN_AT = 256
_MOST_PENDING = 16_384


class ContentIndex:
    """Remembers which item has which content; make one with `open`."""

    def __init__(self, path: str, reader: apsw.Connection, writer: apsw.Connection) -> None:
        self._path = path
        self._reader = reader
        self._writer = writer
        self._pending: dict[_Key, StorePath | None] = {}
        self._due = trio.Event()
        self._failure: str | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: Layout) -> AsyncIterator["ContentIndex"]:
        """Open the index, made where it is absent, for as long as the context lasts.

        Raises:
            DatabaseError: The file is damaged; it may be deleted.
        """
        path = layout.index_file
        writer = await trio.to_thread.run_sync(connect, path, _TABLE)
        reader = await trio.to_thread.run_sync(connect, path, _TABLE)
        index = cls(path, reader, writer)
        try:
            yield index
        finally:
            with trio.CancelScope(shield=True):
                await index.flush()
                await trio.to_thread.run_sync(reader.close)
                await trio.to_thread.run_sync(writer.close)

    @property
    def failure(self) -> str | None:
        """Why entries could not be written the last time, such as for want of disk space."""
        return self._failure

    async def run(self) -> None:
        """Write what was recorded whenever enough came together, until cancelled."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await self.flush()

    def record(self, digest: Digest, path: StorePath, *, recursive: bool) -> None:
        """Remember that an item has this content.

        Args:
            digest: Of the item's bytes, or of its archive form.
            path: The item.
            recursive: Whether the hash is that of the archive form.
        """
        self._put(_key(digest, recursive=recursive), path)

    def lookup(self, digest: Digest, *, recursive: bool) -> StorePath | None:
        """Return the item that had this content; see yourself whether it is valid."""
        key = _key(digest, recursive=recursive)
        if key in self._pending:
            return self._pending[key]
        try:
            path = self._reader.execute(_FIND, key).get
        except apsw.Error:
            # A hint that cannot be read is no hint.
            return None
        return StorePath(path) if path is not None else None

    def forget(self, digest: Digest, *, recursive: bool) -> None:
        """Drop an entry whose item is gone."""
        self._put(_key(digest, recursive=recursive), None)

    async def flush(self) -> None:
        """Write what was recorded."""
        if not self._pending:
            return
        batch = list(self._pending.items())
        try:
            await trio.to_thread.run_sync(_write, self._writer, batch)
            self._failure = None
        except DatabaseError as error:
            # They stay in memory, and come with the next batch.
            self._failure = error.message
            return
        for key, path in batch:
            if self._pending.get(key) == path:
                del self._pending[key]

    def _put(self, key: _Key, path: StorePath | None) -> None:
        self._pending.pop(key, None)
        self._pending[key] = path
        if len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        if len(self._pending) >= _WRITTEN_AT:
            self._due.set()


def _key(digest: Digest, *, recursive: bool) -> _Key:
    return digest.algorithm.value, digest.value, recursive


def _write(connection: apsw.Connection, batch: Iterable[tuple[_Key, StorePath | None]]) -> None:
    try:
        with translated_errors("cannot write the content index"), connection:
            for key, path in batch:
                if path is None:
                    connection.execute(_FORGET, key)
                else:
                    connection.execute(_RECORD, (*key, path))
            connection.execute(_PRUNE, (_MOST_ENTRIES,))
    except apsw.BusyError as error:
        raise DatabaseError("the content index is in use by another process") from error
