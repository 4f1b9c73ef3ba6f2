# SPDX-License-Identifier: GPL-3.0-or-later
"""A store of its own for each test."""

import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from locker.aio import AsyncChannel
from locker.client import Locker
from locker.messages import CODEC
from locker.pathlocks import PathLocks
from locker.start import start_helper
from store import base32
from store.additions import StoreWriter
from store.content_index import ContentIndex
from store.database import StoreDatabase
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.layout import Layout
from store.paths import StorePath
from store.temproots import TempRoots

MakePath = Callable[[str], StorePath]
MakeInfo = Callable[..., PathInfo]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The layout of an empty store, whose directories exist."""
    layout = Layout.under(str(tmp_path / "store"), str(tmp_path / "state"))
    for directory in (layout.store, layout.links, layout.state, layout.database):
        Path(directory).mkdir(parents=True)
    return layout


@pytest.fixture
async def database(layout: Layout) -> AsyncIterator[StoreDatabase]:
    """An open, empty database."""
    async with StoreDatabase.open(layout) as database:
        yield database


@pytest.fixture
def make_path(layout: Layout) -> MakePath:
    """Make the path of an item from its name; the same name makes the same path."""

    def make(name: str) -> StorePath:
        digits = base32.encode(random.Random(name).randbytes(20))
        return StorePath(f"{layout.store}/{digits}-{name}")

    return make


@pytest.fixture
def make_info(make_path: MakePath) -> MakeInfo:
    """Make what is known of an item, from its name and the names it refers to."""

    def make(name: str, *references: str, size: int = 120, deriver: str | None = None) -> PathInfo:
        return PathInfo(
            path=make_path(name),
            nar_hash=Digest.of(HashAlgorithm.SHA256, name.encode()),
            nar_size=size,
            references=frozenset(map(make_path, references)),
            deriver=make_path(deriver) if deriver else None,
        )

    return make


@pytest.fixture
async def locker(nursery: trio.Nursery) -> AsyncIterator[Locker]:
    """A locker process."""
    helper = start_helper("locker")
    locker = Locker(AsyncChannel(helper.socket, CODEC))
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await locker.run()

    nursery.start_soon(run)
    yield locker
    scope.cancel()
    locker.close()
    await trio.to_thread.run_sync(os.waitpid, helper.pid, 0)


@pytest.fixture
async def temp_roots(layout: Layout, locker: Locker) -> AsyncIterator[TempRoots]:
    """The temporary roots of this process."""
    async with TempRoots.open(layout, locker) as roots:
        yield roots


@pytest.fixture
async def content_index(layout: Layout) -> AsyncIterator[ContentIndex]:
    """An empty index of contents."""
    async with ContentIndex.open(layout) as index:
        yield index


@pytest.fixture
async def writer(
    layout: Layout,
    database: StoreDatabase,
    locker: Locker,
    temp_roots: TempRoots,
    content_index: ContentIndex,
) -> AsyncIterator[StoreWriter]:
    """What adds to the store."""
    locks = PathLocks(locker)
    async with StoreWriter.open(layout, database, locks, temp_roots, content_index) as writer:
        yield writer
