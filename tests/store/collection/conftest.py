# SPDX-License-Identifier: GPL-3.0-or-later
"""A collector on a store of its own."""

import os
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
import trio

from locker.client import Locker
from locker.start import start_helper
from store.collection import Collected, Collector, Event, Wish
from store.collection.collector import Surroundings
from store.collection.events import Remark
from store.database import NewItem, StoreDatabase
from store.info import PathInfo
from store.last_uses import LastUses
from store.layout import Layout
from store.paths import StorePath
from store.root_finder import RootFinder
from store.temproots import TempRoots
from store.worker.client import StoreWorkers


class Yard:
    """A store with a collector.

    Attributes:
        events: What collections told.
        needed: What running builds need.
        hooks: Called with each event, before it counts as told.
    """

    def __init__(self, layout: Layout, database: StoreDatabase, temp_roots: TempRoots) -> None:
        self.layout = layout
        self.database = database
        self.temp_roots = temp_roots
        self.events: list[Event] = []
        self.needed: set[str] = set()
        self.hooks: list[Callable[[Event], object]] = []
        self.collector: Collector

    async def add(self, info: PathInfo, *, directory: bool = False) -> StorePath:
        """Make an item, of a few bytes, and register it."""
        if directory:
            os.mkdir(info.path)
            Path(info.path, "file").write_text("x" * 10)
            os.chmod(info.path, 0o555)
        else:
            Path(info.path).write_text("x" * 10)
        await self.database.register([NewItem(info)])
        return info.path

    def root(self, path: str, name: str = "root") -> None:
        """Make a link that keeps an item."""
        os.symlink(path, f"{self.layout.gc_roots}/{name}")

    async def report(self, event: Event) -> None:
        """Take an event, as a client that reads does."""
        for hook in self.hooks:
            hook(event)
        self.events.append(event)
        await trio.lowlevel.checkpoint()

    async def collect(self, wish: Wish) -> Collected:
        """Collect."""
        return await self.collector.collect(wish, self.report)

    @property
    def remarks(self) -> list[str]:
        """The remarks made."""
        return [event.text for event in self.events if isinstance(event, Remark)]

    def entries(self) -> list[str]:
        """What is in the store, but for its own directories."""
        return sorted(
            f"{self.layout.store}/{n}" for n in os.listdir(self.layout.store) if n != ".links"
        )


@pytest.fixture
async def workers(nursery: trio.Nursery) -> AsyncIterator[StoreWorkers]:
    """Two store workers."""
    helpers = [start_helper("store.worker") for _ in range(2)]
    workers = StoreWorkers.from_helpers(helpers)
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await workers.run()

    nursery.start_soon(run)
    yield workers
    scope.cancel()
    workers.close()
    for helper in helpers:
        await trio.to_thread.run_sync(os.waitpid, helper.pid, 0)


@pytest.fixture
async def uses(layout: Layout) -> AsyncIterator[LastUses]:
    """A record of last uses."""
    async with LastUses.open(layout) as uses:
        yield uses


@pytest.fixture
async def yard(
    layout: Layout,
    database: StoreDatabase,
    locker: Locker,
    temp_roots: TempRoots,
    workers: StoreWorkers,
    uses: LastUses,
    nursery: trio.Nursery,
) -> AsyncIterator[Yard]:
    """An empty store with a collector."""
    for directory in (layout.gc_roots, layout.profiles):
        Path(directory).mkdir(exist_ok=True)
    yard = Yard(layout, database, temp_roots)

    async def busy() -> Iterable[str]:
        return ()

    yard.collector = Collector(
        Surroundings(
            layout=layout,
            database=database,
            workers=workers,
            locker=locker,
            temp_roots=temp_roots,
            root_finder=RootFinder(layout, database),
            needed=lambda: yard.needed,
            busy=busy,
            deduplicated=True,
            uses=uses,
        )
    )
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await yard.collector.run()

    nursery.start_soon(run)
    yield yard
    scope.cancel()
