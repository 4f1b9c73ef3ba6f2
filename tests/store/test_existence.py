# SPDX-License-Identifier: GPL-3.0-or-later
"""Items that are registered but gone."""

import os
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from locker.client import Locker
from locker.pathlocks import PathLocks
from store import existence as module
from store.database import NewItem, StoreDatabase
from store.existence import Existence, Fate, Lost, check_existence, referrers_first
from store.info import PathInfo
from store.layout import Layout
from store.paths import StoreDirectory, StorePath

MakeInfo = Callable[..., PathInfo]


class Shelf:
    """A store whose items are files."""

    def __init__(self, layout: Layout, database: StoreDatabase, locks: PathLocks) -> None:
        self.layout = layout
        self.database = database
        self.locks = locks

    async def add(self, *infos: PathInfo, present: bool = True) -> list[StorePath]:
        """Register items."""
        for info in infos:
            await self.database.register([NewItem(info)])
            if present:
                Path(info.path).touch()
        return [info.path for info in infos]

    async def check(self) -> Existence:
        """Compare."""
        return await check_existence(self.database, StoreDirectory(self.layout.store), self.locks)

    def left(self) -> list[str]:
        """Name what is in the store but deduplicated files."""
        return sorted(set(os.listdir(self.layout.store)) - {".links"})


@pytest.fixture
def shelf(layout: Layout, database: StoreDatabase, locker: Locker) -> Shelf:
    """An empty store."""
    return Shelf(layout, database, PathLocks(locker))


async def test_what_is_there_is_left_alone(shelf: Shelf, make_info: MakeInfo):
    """And what is not registered is nobody's business."""
    paths = await shelf.add(make_info("one"), make_info("two", "one"))
    Path(shelf.layout.store, "other").touch()
    assert await shelf.check() == Existence(tuple(sorted(paths)), ())


async def test_what_is_gone_is_forgotten_from_the_referrers_on(shelf: Shelf, make_info: MakeInfo):
    """Also what refers to itself; no lock file is left."""
    infos = [make_info("a", "a"), make_info("b", "a"), make_info("c", "a", "b", "c")]
    a, b, c = await shelf.add(*infos, present=False)
    gone = (Lost(c, Fate.FORGOTTEN), Lost(b, Fate.FORGOTTEN), Lost(a, Fate.FORGOTTEN))
    assert await shelf.check() == Existence((), gone)
    assert await shelf.database.all_valid_paths() == frozenset()
    assert shelf.left() == []


async def test_what_is_needed_stays(shelf: Shelf, make_info: MakeInfo):
    """Directly, or by something that is gone itself."""
    a, b = await shelf.add(make_info("a"), make_info("b", "a"), present=False)
    (c,) = await shelf.add(make_info("c", "b"))
    kept = (Lost(b, Fate.STILL_REFERRED_TO), Lost(a, Fate.STILL_REFERRED_TO))
    assert await shelf.check() == Existence((c,), kept)
    assert await shelf.database.all_valid_paths() == {a, b, c}


async def test_what_is_not_in_the_store_is_forgotten(shelf: Shelf, layout: Layout):
    """As are names that no item can have."""
    raw = apsw.Connection(layout.database_file)
    for path in ("/etc/passwd", f"{layout.store}/x/y", f"{layout.store}/{'x' * 300}"):
        raw.execute(
            "insert into ValidPaths (path, hash, registrationTime) values (?, ?, 1)",
            (path, f"sha256:{'0' * 64}"),
        )
    raw.close()
    found = await shelf.check()
    assert {lost.path: lost.fate for lost in found.lost} == {
        "/etc/passwd": Fate.NOT_IN_STORE,
        f"{layout.store}/x/y": Fate.NOT_IN_STORE,
        f"{layout.store}/{'x' * 300}": Fate.FORGOTTEN,
    }
    assert await shelf.database.all_valid_paths() == frozenset()
    assert Path("/etc/passwd").exists()


async def test_whoever_is_repairing_is_waited_for(shelf: Shelf, make_info: MakeInfo):
    """What comes back is not forgotten."""
    (path,) = await shelf.add(make_info("a"), present=False)
    found = []

    async def check() -> None:
        found.append(await shelf.check())

    async with trio.open_nursery() as nursery, shelf.locks.hold([path]):
        nursery.start_soon(check)
        while not shelf.locks._awaited:
            await trio.testing.wait_all_tasks_blocked()
        Path(path).touch()
        assert not found
    assert found == [Existence((), ())]
    assert shelf.database.is_valid(path)


async def test_what_is_collected_meanwhile_is_no_loss(
    shelf: Shelf, make_info: MakeInfo, monkeypatch: pytest.MonkeyPatch
):
    """A collector forgets first, and deletes then."""
    await shelf.add(make_info("a"), present=False)
    look = module._is_there

    def look_late(path: str) -> bool:
        raw = apsw.Connection(shelf.layout.database_file)
        raw.execute("delete from ValidPaths where path = ?", (path,))
        raw.close()
        return look(path)

    monkeypatch.setattr(module, "_is_there", look_late)
    assert await shelf.check() == Existence((), ())


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), unique=True))
)
def test_referrers_come_first_as_far_as_there_is_no_circle(graph: dict[str, list[str]]):
    """Each path once; letters refer to smaller ones only, or to anything."""
    acyclic = {path: [each for each in users if each > path] for path, users in graph.items()}
    paths = [StorePath(letter) for letter in "abcdefgh"]
    ordered = referrers_first(paths, acyclic)
    assert sorted(ordered) == paths
    for path, users in acyclic.items():
        assert all(ordered.index(user) < ordered.index(path) for user in users)
    assert sorted(referrers_first(paths, graph)) == paths


def test_a_long_chain_is_no_problem():
    """There is no recursion."""
    paths = [StorePath(f"{number:06}") for number in range(20_000)]
    chain = dict(zip(paths, [[path] for path in paths[1:]], strict=False))
    assert referrers_first(paths, chain) == paths[::-1]
