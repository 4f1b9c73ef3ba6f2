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

import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import apsw
import trio

from store.content_links import ContentLinks, Key
from store.errors import DatabaseError
from store.hashes import Digest
from store.layout import Layout
from store.paths import StorePath
from store.side_file import opened, writing
from store.tally import CacheStatistics, Tally

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
_PRUNE = """
delete from Contents where sequence <= (select max(sequence) - ? from Contents)
returning algorithm, hash, recursive"""

#: Entries kept, about 200 bytes of disk each; the oldest go first.
_MOST_ENTRIES = 1_000_000
# Entries in memory before they are written, seconds after which they are, and entries
# before the oldest are dropped instead.
_WRITTEN_AT = 256
_WRITTEN_AFTER = 1.0
_MOST_PENDING = 16_384


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is known under a key: an item, and perhaps the hash of its archive form."""

    path: StorePath | None
    nar_hash: Digest | None = None


class ContentIndex:
    """Remembers which item has which content; make one with `open`."""

    def __init__(
        self, reader: apsw.Connection, writer: apsw.Connection, links: ContentLinks
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._links = links
        self._writing = trio.Lock()
        self._pending: dict[Key, _Entry] = {}
        self._tally = Tally()
        self._begun = trio.Event()
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
        async with opened(path, _TABLE) as writer, opened(path, _TABLE) as reader:
            links = ContentLinks(layout)
            await trio.to_thread.run_sync(links.make)
            index = cls(reader, writer, links)
            try:
                yield index
            finally:
                with trio.CancelScope(shield=True):
                    await index.flush()

    @property
    def failure(self) -> str | None:
        """Why entries could not be written the last time, such as for want of disk space."""
        return self._failure

    async def run(self) -> None:
        """Write what was recorded once enough came together, or after a while, until cancelled."""
        while True:
            await self._begun.wait()
            with trio.move_on_after(_WRITTEN_AFTER):
                await self._due.wait()
            self._begun, self._due = trio.Event(), trio.Event()
            await self.flush()

    def record(
        self,
        digest: Digest,
        path: StorePath,
        *,
        recursive: bool,
        nar_hash: Digest | None = None,
    ) -> None:
        """Remember that an item has this content.

        Args:
            digest: Of the item's bytes, or of its archive form.
            path: The item.
            recursive: Whether the hash is that of the archive form.
            nar_hash: sha256 of the archive form, if known, by which a file is shared.
        """
        self._put(_key(digest, recursive=recursive), _Entry(path, nar_hash))

    def lookup(self, digest: Digest, *, recursive: bool) -> StorePath | None:
        """Return the item that had this content; see yourself whether it is valid."""
        key = _key(digest, recursive=recursive)
        self._tally.looked_up(found=key in self._pending)
        if key in self._pending:
            return self._pending[key].path
        try:
            path = self._reader.execute(_FIND, key).get
        except apsw.Error:
            # A hint that cannot be read is no hint.
            return None
        return StorePath(path) if path is not None else None

    def forget(self, digest: Digest, *, recursive: bool) -> None:
        """Drop an entry whose item is gone."""
        self._put(_key(digest, recursive=recursive), _Entry(None))

    def statistics(self) -> CacheStatistics:
        """Return how what is not written yet does as a cache; evictions are lost entries."""
        return self._tally.of_entries("contents-unwritten", len(self._pending), _MOST_PENDING)

    async def flush(self) -> None:
        """Write what was recorded."""
        async with self._writing:
            batch = list(self._pending.items())
            if not batch:
                return
            try:
                await trio.to_thread.run_sync(self._write, batch)
                self._failure = None
            except (DatabaseError, OSError) as error:
                # They stay in memory, and come with the next batch.
                self._failure = str(error)
                return
        for key, entry in batch:
            if self._pending.get(key) == entry:
                del self._pending[key]

    async def sweep_links(self) -> int:
        """Remove builders' links to what is gone; return how many. Cancelled soon."""
        stopped = threading.Event()
        try:
            return await trio.to_thread.run_sync(
                self._links.sweep, stopped.is_set, abandon_on_cancel=True
            )
        finally:
            stopped.set()

    def _write(self, batch: Sequence[tuple[Key, _Entry]]) -> None:
        pruned = list(_write(self._writer, batch))
        self._links.update((key, entry.path, entry.nar_hash) for key, entry in batch)
        self._links.update((key, None, None) for key in pruned)

    def _put(self, key: Key, entry: _Entry) -> None:
        self._pending.pop(key, None)
        self._pending[key] = entry
        if len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]
            self._tally.evictions += 1
        self._begun.set()
        if len(self._pending) >= _WRITTEN_AT:
            self._due.set()


def _key(digest: Digest, *, recursive: bool) -> Key:
    return digest.algorithm.value, digest.value, recursive


def _write(connection: apsw.Connection, batch: Iterable[tuple[Key, _Entry]]) -> Iterator[Key]:
    """Write entries; yield the keys of those that had to go for it."""
    with writing(connection, "the content index"):
        for key, entry in batch:
            if entry.path is None:
                connection.execute(_FORGET, key)
            else:
                connection.execute(_RECORD, (*key, entry.path))
        pruned = connection.execute(_PRUNE, (_MOST_ENTRIES,)).fetchall()
    for algorithm, value, recursive in pruned:
        yield cast("str", algorithm), cast("bytes", value), bool(recursive)
