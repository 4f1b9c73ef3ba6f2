# SPDX-License-Identifier: GPL-3.0-or-later
"""Collections from beginning to end, one at a time: `Collector.collect`."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

import trio

from store.collection.busy import busy_hash_parts
from store.collection.emptying import empty_trash
from store.collection.events import Entered, Event, Remark, Report, Savings, Stage
from store.collection.gclock import collector_lock, others_roots
from store.collection.order import Order, deletion_order, unused_since, with_referrers
from store.collection.sparing import Sparing
from store.collection.strays import Strays, stray_names
from store.collection.sweep import Sweep, Tools
from store.collection.trash import Trash
from store.collection.wishes import Action, Wish
from store.database import StoreDatabase
from store.database.garbage import Garbage, Keeping
from store.errors import StoreError
from store.filelocks import LockHolder
from store.last_uses import LastUses
from store.layout import Layout
from store.links import open_links
from store.paths import StorePath
from store.root_finder import Root, RootFinder
from store.temproots import TempRoots
from store.worker.client import StoreWorkers, WorkerError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Collected:
    """What came of a collection: paths, sorted, and the bytes that were freed."""

    paths: tuple[str, ...]
    freed: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a collector works with.

    Attributes:
        layout: Of the store.
        database: What is registered.
        workers: Delete trees.
        locker: Waits for locks.
        temp_roots: What our own sessions need.
        root_finder: Finds links that keep items.
        needed: Gives what else of the store is needed at the moment, such as by running builds.
        busy: Gives further items that processes use.
        deduplicated: Whether files of items usually have a second name in `.links`.
        uses: Knows when items were used last.
    """

    layout: Layout
    database: StoreDatabase
    workers: StoreWorkers
    locker: LockHolder
    temp_roots: TempRoots
    root_finder: RootFinder
    needed: Callable[[], Iterable[str]]
    busy: Callable[[], Awaitable[Iterable[str]]]
    deduplicated: bool
    uses: LastUses


@dataclass(frozen=True, slots=True)
class _Roots:
    """What keeps items: links, processes that use them, and temporary roots.

    Attributes:
        links: The links.
        busy: Items that processes use.
        others: Temporary roots of other daemons.
        own: Those of our own sessions and builds, when the others were read.
    """

    links: Sequence[Root]
    busy: frozenset[str]
    others: frozenset[str]
    own: frozenset[str]

    @property
    def lasting(self) -> frozenset[str]:
        """All but our own."""
        return self.busy.union(self.others, (root.item for root in self.links))

    @property
    def all(self) -> frozenset[str]:
        """All of them."""
        return self.lasting | self.own


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an item is alive.

    Attributes:
        kind: What keeps it: ``link``, ``process``, ``session`` (or a build), or ``daemon``,
            which is a session of another daemon.
        link: The link's name, where it is one.
        chain: From the item that is kept, by what each refers to, to the item in question.
    """

    kind: str
    link: str
    chain: tuple[StorePath, ...]


class Collector:
    """Collects garbage.

    Args:
        surroundings: What it works with.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._given = surroundings
        self._turn = trio.StrictFIFOLock()
        self._littered = trio.Event()

    async def run(self) -> None:
        """Empty the trash of collections that were given up, until cancelled."""
        while True:
            await self._littered.wait()
            self._littered = trio.Event()
            async with self._turn:
                with self._tools() as tools:
                    await empty_trash(tools, _disregard)

    async def collect(self, wish: Wish, report: Report) -> Collected:
        """Do what a wish says, while sessions of this process go on.

        Cancelled, it ends between two batches: what is gone by then is gone for
        good, and the trash is emptied by `run`.

        Args:
            wish: What to do.
            report: Awaited with each event. Other daemons may have to wait meanwhile.

        Raises:
            StoreError: An item that is to be deleted is alive (reason ``alive``).
            OSError: Roots cannot be read, so nobody knows what is garbage.
        """
        if not wish.deletes or wish.dry:
            return await self._list(wish, report)
        async with self._turn:
            return await self._delete(wish, report)

    async def explain(self, path: str, keeping: Keeping, report: Report) -> list[Reason]:
        """Return why an item is alive: a reason for each root that keeps it; none for garbage.

        Raises:
            NotValidError: There is no such item.
        """
        database = self._given.database
        async with self._roots(Sparing(database), report) as roots:
            chains = await database.shortest_chains(path, roots.all, keeping)
        return [reason for chain in chains for reason in _reasons(roots, chain)]

    async def _list(self, wish: Wish, report: Report) -> Collected:
        with self._tools() as tools:
            sparing = Sparing(tools.database)
            async with self._roots(sparing, report) as roots:
                if wish.action in (Action.LIST_LIVE, Action.LIST_DEAD):
                    return await self._list_all(wish, tools, roots, report)
                sweep = Sweep(tools, report, wish.limit, dry=True)
                await self._sweep(wish, roots, sweep, sparing, self._strays(tools, roots), report)
        return Collected(tuple(sorted(sweep.paths)), sweep.expected)

    async def _delete(self, wish: Wish, report: Report) -> Collected:
        with self._tools() as tools:
            sweep = Sweep(tools, report, wish.limit, dry=False)
            sparing = Sparing(tools.database)
            try:
                async with self._roots(sparing, report) as roots:
                    strays = self._strays(tools, roots)
                    await self._sweep(wish, roots, sweep, sparing, strays, report)
                # From here on, other processes may add to the store.
                await report(Entered(Stage.TRASH, len(sweep.paths)))
                freed = sweep.freed + await empty_trash(tools, report)
            except BaseException:
                self._littered.set()
                raise
            await self._given.uses.forget(sweep.paths)
            await report(Entered(Stage.LINKS))
            freed += await self._sweep_links(tools, report)
        return Collected(tuple(sorted(sweep.paths)), freed)

    @contextmanager
    def _tools(self) -> Iterator[Tools]:
        given = self._given
        store_fd = os.open(given.layout.store, _DIRECTORY)
        try:
            yield Tools(
                given.layout.store,
                store_fd,
                given.database,
                given.workers,
                Trash(store_fd),
                2 if given.deduplicated else 1,
            )
        finally:
            os.close(store_fd)

    @asynccontextmanager
    async def _roots(self, sparing: Sparing, report: Report) -> AsyncIterator[_Roots]:
        """Find all roots; while this lasts, other processes get no more of them.

        Whoever replaces a temporary root by a link makes the link first. So temporary
        ones are read first: then one or the other is seen.
        """
        given = self._given
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(collector_lock(given.layout, given.locker, report))
            await report(Entered(Stage.ROOTS))
            stack.enter_context(given.temp_roots.guarded(sparing))
            own = self._needed()
            others = others_roots(given.layout, given.temp_roots, given.locker, report)
            temporary = await stack.enter_async_context(others)

            async def remark(text: str) -> None:
                await report(Remark(text))

            links = await given.root_finder.find(remark)
            busy = (await self._busy()).union(await given.busy())
            yield _Roots(links, frozenset(busy), temporary, own)

    async def _busy(self) -> set[str]:
        """Return the items that processes use, without keeping what they only speak of."""
        found: set[str] = set()
        database = self._given.database
        parts = busy_hash_parts(self._given.layout.store)
        while (piece := await trio.to_thread.run_sync(next, parts, None)) is not None:
            for part in piece:
                path = database.path_from_hash_part(part)
                if path is not None:
                    found.add(path)
        return found

    def _needed(self) -> frozenset[str]:
        return frozenset(self._given.temp_roots.live()).union(self._given.needed())

    def _strays(self, tools: Tools, roots: _Roots) -> Strays:
        return Strays(tools.store, tools.database, tools.trash, roots.lasting, self._needed)

    async def _list_all(self, wish: Wish, tools: Tools, roots: _Roots, report: Report) -> Collected:
        if wish.limit == 0:
            return Collected((), 0)
        await report(Entered(Stage.MARKING))
        live = await tools.database.find_live(roots.all, wish.keeping)
        listing_live = wish.action is Action.LIST_LIVE
        if listing_live:
            paths = set(map(str, live))
        else:
            paths = set(map(str, await tools.database.all_valid_paths() - live))
        strays = self._strays(tools, roots)
        async with aclosing(stray_names(tools.database, tools.store)) as batches:
            async for names in batches:
                chosen = (
                    strays.live(names)
                    if listing_live
                    else strays.dead(await strays.unlocked(names))
                )
                paths.update(f"{tools.store}/{name}" for name in chosen)
        return Collected(tuple(sorted(paths)), 0)

    async def _sweep(
        self,
        wish: Wish,
        roots: _Roots,
        sweep: Sweep,
        sparing: Sparing,
        strays: Strays,
        report: Report,
    ) -> None:
        """Delete what is dead, while sessions of our own say what they come to need."""
        if wish.action is Action.DELETE_SPECIFIC:
            await self._delete_specific(wish, roots, sweep, sparing, strays)
        elif wish.limit != 0:
            await report(Entered(Stage.DELETING))
            await self._delete_dead(wish, roots, sweep, sparing, strays)

    async def _mark(self, wish: Wish, roots: _Roots, sparing: Sparing) -> tuple[Garbage, Order]:
        given = self._given
        await given.uses.flush()
        garbage = await given.database.find_garbage(roots.all, wish.keeping, given.uses.file)
        order = await trio.to_thread.run_sync(deletion_order, garbage)
        sparing.begin(garbage)
        # Builds may have begun since the roots were read.
        await sparing.spare(self._needed() - roots.all)
        return garbage, order

    async def _delete_dead(
        self, wish: Wish, roots: _Roots, sweep: Sweep, sparing: Sparing, strays: Strays
    ) -> None:
        """Delete what is not registered first, for that cannot come back to life."""
        given = self._given
        async with aclosing(stray_names(given.database, given.layout.store)) as batches:
            async for names in batches:
                await sweep.strays(names, strays, sparing)
        if sweep.stopped:
            return
        garbage, order = await self._mark(wish, roots, sparing)
        numbers = order.numbers
        if wish.used_before is not None:
            numbers = await trio.to_thread.run_sync(unused_since, order, wish.used_before)
        await sweep.items(garbage, numbers, sparing)

    async def _delete_specific(
        self, wish: Wish, roots: _Roots, sweep: Sweep, sparing: Sparing, strays: Strays
    ) -> None:
        """Delete certain items, and what refers to them, up to the first that is alive."""
        given = self._given
        garbage, order = await self._mark(wish, roots, sparing)
        numbers: list[int] = []
        names: list[str] = []
        alive: str | None = None
        for path in sorted(set(wish.paths)):
            number = sparing.number_of(path)
            name = path.rpartition("/")[2]
            if number is not None and sparing.is_dead(number):
                numbers.append(number)
            elif number is None and strays.dead(await strays.unlocked([name])):
                names.append(name)
            else:
                alive = path
                break
        chosen = await trio.to_thread.run_sync(with_referrers, garbage, order, numbers)
        await sweep.strays(names, strays, sparing)
        await sweep.items(garbage, chosen, sparing)
        if not (sweep.stopped or wish.dry):
            # Somebody may have come to need one in the meantime.
            remaining = (path for path in sorted(wish.paths) if given.database.is_valid(path))
            alive = alive or next(remaining, None)
        if alive is not None:
            text = f"cannot delete path `{alive}' since it is still alive"
            raise StoreError(text, reason="alive")

    async def _sweep_links(self, tools: Tools, report: Report) -> int:
        links = open_links(tools.store_fd)
        try:
            swept = await tools.workers.sweep_links(links)
        except WorkerError as error:
            await report(Remark(f"warning: cannot sweep `.links': {error.message}", important=True))
            return 0
        finally:
            os.close(links)
        await report(Savings(swept.saved))
        return swept.freed


def _reasons(roots: _Roots, chain: Sequence[StorePath]) -> Iterator[Reason]:
    way, item = tuple(chain), chain[0]
    for root in roots.links:
        if root.item == item:
            yield Reason("link", root.link, way)
    kinds = (("process", roots.busy), ("session", roots.own), ("daemon", roots.others))
    for kind, items in kinds:
        if item in items:
            yield Reason(kind, "", way)


async def _disregard(_event: Event) -> None:
    """Tell nobody."""
