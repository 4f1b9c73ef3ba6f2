# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting what was found to be garbage, a batch at a time.

A batch is forgotten in one transaction, referrers first, and then moved out of
the way; the two are not torn apart by cancellation. A process that is killed in
between leaves things in the store that are not valid, and so are garbage.
Entry point: `Sweep`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from store.collection.events import LimitReached, Remark, Removed, Report
from store.collection.sparing import Sparing
from store.collection.strays import Strays
from store.collection.trash import Entry, Thrown, Trash
from store.database import StoreDatabase
from store.database.garbage import Garbage
from store.paths import StorePath
from store.worker.client import StoreWorkers

_BATCH = 512
_NOTHING = Thrown(frozenset(), 0, {}, {})


@dataclass(frozen=True, slots=True)
class Tools:
    """What deletes.

    Attributes:
        store: The store directory.
        store_fd: The same, open.
        database: What is registered.
        workers: Delete trees.
        trash: Where directories go.
        most_links: Names a file may have and still count as freed when one goes: two,
            where `.links` has one that is going to be swept.
    """

    store: str
    store_fd: int
    database: StoreDatabase
    workers: StoreWorkers
    trash: Trash
    most_links: int


@dataclass(frozen=True, slots=True)
class _Doomed:
    """Something that is about to go: its path, its entry if it is there, and its worth in bytes."""

    path: str
    entry: Entry | None
    worth: int
    number: int = -1


class Sweep:
    """One collection's deletions.

    Args:
        tools: What deletes.
        report: Awaited with events.
        limit: Bytes after which to stop; None for never.
        dry: Only tell what would go.

    Attributes:
        paths: What is gone, or in a dry run would be.
        freed: Bytes that are free already.
        expected: Bytes that are free, or will be when the trash is empty, as far as is known.
        stopped: Whether the limit is reached.
    """

    def __init__(self, tools: Tools, report: Report, limit: int | None, *, dry: bool) -> None:
        self._tools = tools
        self._report = report
        self._limit = limit
        self._dry = dry
        self.paths: list[str] = []
        self.freed = 0
        self.expected = 0
        self.stopped = False

    async def items(self, garbage: Garbage, numbers: Sequence[int], sparing: Sparing) -> None:
        """Delete registered items, in this order, but for those that somebody comes to need."""
        for start in range(0, len(numbers), _BATCH):
            if self.stopped:
                return
            await trio.lowlevel.checkpoint()
            batch = [n for n in numbers[start : start + _BATCH] if sparing.is_dead(n)]
            doomed = await self._examine_items(garbage, batch)
            await self._spare_used(doomed, sparing)
            doomed = self._within_limit(each for each in doomed if sparing.is_dead(each.number))
            if self._dry:
                await self._tell(doomed, {each.path for each in doomed if each.entry})
                continue
            with trio.CancelScope(shield=True):
                sparing.going((each.path for each in doomed), [each.number for each in doomed])
                try:
                    kept, thrown = await self._delete_items(garbage, doomed)
                finally:
                    sparing.gone()
            await self._settle([each for each in doomed if each.number not in kept], thrown)

    async def _spare_used(self, doomed: Iterable[_Doomed], sparing: Sparing) -> None:
        """Keep items that a build of another daemon has locked, with all they refer to."""
        used = [each.path for each in doomed if each.entry is not None and each.entry.in_use]
        if used:
            await sparing.spare(used)
        for path in used:
            await self._report(Remark(f"note: `{path}' is kept, since another build uses it"))

    async def strays(self, names: Sequence[str], strays: Strays, sparing: Sparing) -> None:
        """Delete entries of the store that are not registered."""
        for start in range(0, len(names), _BATCH):
            if self.stopped:
                return
            await trio.lowlevel.checkpoint()
            unlocked = await strays.unlocked(names[start : start + _BATCH])
            entries = await trio.to_thread.run_sync(self._tools.trash.examine, unlocked)
            doomed = self._within_limit(
                self._stray(entries[name]) for name in strays.dead(unlocked) if name in entries
            )
            if self._dry:
                await self._tell(doomed, {each.path for each in doomed})
                continue
            with trio.CancelScope(shield=True):
                sparing.going(each.path for each in doomed)
                try:
                    thrown = await self._throw(doomed)
                finally:
                    sparing.gone()
            await self._settle(doomed, thrown)

    async def _examine_items(self, garbage: Garbage, numbers: Sequence[int]) -> list[_Doomed]:
        if not numbers:
            return []
        tools = self._tools
        paths = await tools.database.paths_of([garbage.ids[number] for number in numbers])
        names = [_name(path) for path in paths.values()]
        entries = await trio.to_thread.run_sync(tools.trash.examine, names)
        found = ((number, paths.get(garbage.ids[number])) for number in numbers)
        return [
            self._item(path, entries.get(_name(path)), number, garbage.sizes[number])
            for number, path in found
            if path is not None
        ]

    def _item(self, path: StorePath, entry: Entry | None, number: int, size: int) -> _Doomed:
        worth = size if entry is not None and entry.is_directory else self._worth(entry)
        return _Doomed(path, entry, worth, number)

    def _stray(self, entry: Entry) -> _Doomed:
        return _Doomed(f"{self._tools.store}/{entry.name}", entry, self._worth(entry))

    def _worth(self, entry: Entry | None) -> int:
        few = entry is not None and entry.links <= self._tools.most_links
        return entry.size if few and entry is not None else 0

    def _within_limit(self, doomed: Iterable[_Doomed]) -> list[_Doomed]:
        """Take things up to the first with which more than the limit is free."""
        chosen: list[_Doomed] = []
        expected = self.expected
        for each in doomed:
            chosen.append(each)
            expected += each.worth
            if self._limit is not None and expected > self._limit:
                break
        return chosen

    async def _delete_items(
        self, garbage: Garbage, doomed: Sequence[_Doomed]
    ) -> tuple[set[int], Thrown]:
        """Forget items, and throw away those that are forgotten; give the others as well."""
        if not doomed:
            return set(), _NOTHING
        rows = {garbage.ids[each.number]: each.number for each in doomed}
        kept = {rows[row] for row in await self._tools.database.forget(list(rows))}
        return kept, await self._throw([each for each in doomed if each.number not in kept])

    async def _throw(self, doomed: Sequence[_Doomed]) -> Thrown:
        entries = [each.entry for each in doomed if each.entry is not None]
        throw = partial(self._tools.trash.throw, entries)
        thrown = await trio.to_thread.run_sync(throw)
        if thrown.immovable:
            reply = await self._tools.workers.delete_entries(
                self._tools.store_fd, list(thrown.immovable)
            )
            self.freed += reply.freed
        return thrown

    async def _settle(self, doomed: Sequence[_Doomed], thrown: Thrown) -> None:
        """Count what is gone, and tell."""
        self.freed += thrown.freed
        for name, why in thrown.immovable.items():
            text = f"note: can't create move `{self._tools.store}/{name}': {why}"
            await self._report(Remark(text))
        for name, why in thrown.failed.items():
            text = f"warning: cannot delete `{self._tools.store}/{name}': {why}"
            await self._report(Remark(text, important=True))
        gone = thrown.removed.union(thrown.immovable)
        await self._tell(doomed, {each.path for each in doomed if _name(each.path) in gone})

    async def _tell(self, doomed: Sequence[_Doomed], gone: set[str]) -> None:
        paths: list[str] = []
        freed: list[int] = []
        for each in doomed:
            if each.path in gone:
                paths.append(each.path)
                freed.append(self.expected)
                self.expected += each.worth
        # Runs that are sorted are sorted together in a fraction of the time.
        self.paths += sorted(paths)
        if paths:
            await self._report(Removed(tuple(paths), tuple(freed), self.expected))
        if self._limit is not None and self.expected > self._limit:
            self.stopped = True
            await self._report(LimitReached(self._limit))


def _name(path: str) -> str:
    return path.rpartition("/")[2]
