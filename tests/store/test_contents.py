# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing items with what is registered of them."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import trio

from locker.client import Locker
from locker.pathlocks import PathLocks
from locker.start import StartedHelper, start_helper
from store.contents import NO_HASH, Content, ContentCheck
from store.database import NewItem, StoreDatabase
from store.hashes import Digest
from store.info import PathInfo
from store.layout import Layout
from store.nar.hash import nar_hash_of
from store.paths import StorePath
from store.worker.client import StoreWorkers

MakePath = Callable[[str], StorePath]


@pytest.fixture
def helper() -> Iterator[StartedHelper]:
    """A worker process."""
    helper = start_helper("store.worker")
    yield helper
    helper.socket.close()
    os.waitpid(helper.pid, 0)


class Shelf:
    """A store with a check of its contents."""

    def __init__(
        self, layout: Layout, database: StoreDatabase, check: ContentCheck, fd: int
    ) -> None:
        self.layout = layout
        self.database = database
        self.check = check
        self.fd = fd

    async def add(self, path: StorePath, text: str) -> PathInfo:
        """Add an item with a text in it."""
        Path(path).write_text(text)
        digest, size = nar_hash_of(self.fd, path.rpartition("/")[2])
        info = PathInfo(path, digest, size, frozenset())
        await self.database.register([NewItem(info)])
        return self.database.path_info(path)

    def change(self, statement: str) -> None:
        """Change the database behind its back."""
        with closing(apsw.Connection(self.layout.database_file)) as raw:
            raw.execute(statement)


@pytest.fixture
async def shelf(
    layout: Layout,
    database: StoreDatabase,
    locker: Locker,
    helper: StartedHelper,
    nursery: trio.Nursery,
) -> AsyncIterator[Shelf]:
    """An empty store."""
    workers = StoreWorkers.from_helpers([helper])
    await nursery.start(workers.run)
    fd = os.open(layout.store, os.O_RDONLY)
    yield Shelf(layout, database, ContentCheck(database, workers, PathLocks(locker), fd), fd)
    os.close(fd)
    workers.close()


async def test_what_is_as_registered_is_sound(shelf: Shelf, make_path: MakePath):
    """Nothing is changed."""
    info = await shelf.add(make_path("a"), "text")
    found = await shelf.check.check(info.path)
    assert found == Content(info.path, info.nar_hash, info.nar_hash, info.nar_size)
    assert found.sound
    assert shelf.database.path_info(info.path) == info


async def test_what_was_changed_is_told_with_both_hashes(shelf: Shelf, make_path: MakePath):
    """No lock file is left."""
    info = await shelf.add(make_path("a"), "text")
    other = await shelf.add(make_path("b"), "changed")
    Path(info.path).write_text("changed")
    found = await shelf.check.check(info.path)
    assert found == Content(info.path, info.nar_hash, other.nar_hash, other.nar_size)
    assert found.modified
    assert not found.sound
    assert not Path(f"{info.path}.lock").exists()


async def test_what_is_being_replaced_is_judged_by_what_was_seen(shelf: Shelf, make_path: MakePath):
    """Whoever has the lock may have it for hours."""
    info = await shelf.add(make_path("a"), "text")
    Path(info.path).write_text("changed")
    async with shelf.check._locks.hold([info.path]):
        assert (await shelf.check.check(info.path)).modified


async def test_a_repair_that_just_ended_is_seen(
    shelf: Shelf, make_path: MakePath, monkeypatch: pytest.MonkeyPatch
):
    """The second look, under the lock, is what counts."""
    info = await shelf.add(make_path("a"), "text")
    Path(info.path).write_text("changed")
    look = shelf.check._look

    async def look_and_repair(path: StorePath) -> Content:
        found = await look(path)
        Path(path).write_text("text")
        return found

    monkeypatch.setattr(shelf.check, "_look", look_and_repair)
    assert (await shelf.check.check(info.path)).sound


async def test_a_missing_hash_and_size_are_registered(shelf: Shelf, make_path: MakePath):
    """As old stores have it, each by itself or both."""
    infos = [await shelf.add(make_path(name), name) for name in "abc"]
    a, b, c = infos
    shelf.change(f"update ValidPaths set narSize = null where path = '{a.path}'")
    shelf.change(f"update ValidPaths set hash = '{NO_HASH}' where path = '{b.path}'")
    shelf.change(
        f"update ValidPaths set hash = '{NO_HASH}', narSize = null where path = '{c.path}'"
    )
    added = [await shelf.check.check(info.path) for info in infos]
    assert [(each.hash_added, each.size_added) for each in added] == [
        (False, True),
        (True, False),
        (True, True),
    ]
    assert [shelf.database.path_info(info.path) for info in infos] == infos


async def test_the_size_of_something_changed_is_not_registered(shelf: Shelf, make_path: MakePath):
    """It would be that of the wrong thing."""
    info = await shelf.add(make_path("a"), "text")
    shelf.change("update ValidPaths set narSize = null")
    Path(info.path).write_text("changed")
    assert (await shelf.check.check(info.path)).modified
    assert shelf.database.path_info(info.path) == replace(info, nar_size=0)


async def test_what_cannot_be_read_has_a_problem(shelf: Shelf, make_path: MakePath):
    """Neither can a hash that is none."""
    gone = await shelf.add(make_path("gone"), "text")
    pipe = await shelf.add(make_path("pipe"), "text")
    strange = await shelf.add(make_path("strange"), "text")
    os.unlink(gone.path)
    os.unlink(pipe.path)
    os.mkfifo(pipe.path)
    shelf.change(f"update ValidPaths set hash = 'sha256:xyz' where path = '{strange.path}'")
    problems = [(await shelf.check.check(info.path)).problem for info in (gone, pipe, strange)]
    assert "No such file or directory" in problems[0]
    assert "pipe" in problems[1]
    assert "valid-path entry" in problems[2]


async def test_what_is_not_registered_any_more_is_nobodys_business(
    shelf: Shelf, make_path: MakePath
):
    """A collector deletes what it likes."""
    assert (await shelf.check.check(make_path("collected"))).sound


def test_no_hash_is_what_the_other_daemon_registers():
    """Sixty-four zeros."""
    assert str(NO_HASH) == f"sha256:{'0' * 64}"
    assert isinstance(NO_HASH, Digest)
