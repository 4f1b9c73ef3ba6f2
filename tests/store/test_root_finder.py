# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding roots where users put them, and where they put anything else."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from store import root_finder as module
from store.database import NewItem, StoreDatabase
from store.files import delete_tree
from store.info import PathInfo
from store.layout import Layout
from store.paths import StorePath
from store.root_finder import Candidate, Root, RootFinder, walk_roots
from store.roots import add_indirect_root

MakePath = Callable[[str], StorePath]
MakeInfo = Callable[..., PathInfo]


@pytest.fixture
def gcroots(layout: Layout) -> Path:
    """The directory of roots."""
    Path(layout.gc_roots, "auto").mkdir(parents=True)
    Path(layout.profiles, "per-user").mkdir(parents=True)
    return Path(layout.gc_roots)


@pytest.fixture
async def item(database: StoreDatabase, make_info: MakeInfo) -> StorePath:
    """A valid item."""
    info = make_info("item")
    await database.register([NewItem(info)])
    return info.path


class Search:
    """A finder, and the remarks it made."""

    def __init__(self, layout: Layout, database: StoreDatabase) -> None:
        self.finder = RootFinder(layout, database)
        self.remarks: list[str] = []

    async def report(self, text: str) -> None:
        """Take a remark."""
        self.remarks.append(text)

    async def find(self) -> list[Root]:
        """Find the roots."""
        return await self.finder.find(self.report)


@pytest.fixture
def search(layout: Layout, database: StoreDatabase) -> Search:
    """A way to find roots."""
    return Search(layout, database)


async def test_roots_are_links_at_any_depth_sorted_by_name(
    gcroots: Path, layout: Layout, search: Search, item: StorePath
):
    """In all three places, to an item or to something in one, and files named like one."""
    deep = gcroots / "x" / "y"
    deep.mkdir(parents=True)
    manifests = Path(layout.state, "manifests")
    manifests.mkdir()
    links = [deep / "b", gcroots / "a", Path(layout.profiles, "p"), manifests / "m"]
    for link in links:
        link.symlink_to(item)
    (gcroots / "below").symlink_to(f"{item}/bin/sh")
    named = gcroots / item.rpartition("/")[2]
    named.touch()
    expected = sorted(map(str, [*links, gcroots / "below", named]))
    assert await search.find() == [Root(link, item) for link in expected]
    assert search.remarks == []


async def test_a_link_to_what_is_not_valid_is_remarked_on(
    gcroots: Path, layout: Layout, search: Search
):
    """A file that is named like nothing is just a file."""
    (gcroots / "a").symlink_to(f"{layout.store}/nothing/bin")
    (gcroots / "b").symlink_to(f"{layout.store}/..")
    (gcroots / "file").touch()
    (gcroots / os.fsdecode(b"\xff\xfe")).symlink_to(f"{layout.store}/\udcff")
    assert await search.find() == []
    assert sorted(search.remarks) == [
        f"skipping invalid root from `{gcroots}/a' to `{layout.store}/nothing'",
        f"skipping invalid root from `{gcroots}/b' to `{layout.store}/..'",
        f"skipping invalid root from `{gcroots}/\udcff\udcfe' to `{layout.store}/\udcff'",
    ]


async def test_an_indirect_root_is_the_users_link(
    gcroots: Path, layout: Layout, search: Search, item: StorePath, tmp_path: Path
):
    """Whether ours names it in full, or from where it is; and only through one link."""
    user = tmp_path / "result"
    user.symlink_to(item)
    add_indirect_root(layout, str(user))
    (gcroots / "relative").symlink_to("../../result")
    second = tmp_path / "second"
    second.symlink_to(user)
    add_indirect_root(layout, str(second))
    assert await search.find() == [Root(str(user), item)]
    assert search.remarks == []


async def test_what_is_no_link_is_not_looked_into(
    gcroots: Path, search: Search, item: StorePath, tmp_path: Path
):
    """A link to a directory outside is a link to no root, and nobody goes there."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(item)
    (home / "file").touch()
    (gcroots / "home").symlink_to(home)
    (gcroots / "file").symlink_to(home / "file")
    os.mkfifo(gcroots / "fifo")
    assert await search.find() == []


async def test_a_link_in_place_of_the_directory_is_a_link(
    layout: Layout, search: Search, item: StorePath, tmp_path: Path
):
    """And a directory that is absent is remarked on."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(item)
    Path(layout.gc_roots).symlink_to(elsewhere)
    assert await search.find() == []
    assert search.remarks == [
        f"cannot read potential root '{layout.profiles}': No such file or directory"
    ]


async def test_stale_indirect_roots_are_removed_and_no_others(
    gcroots: Path, layout: Layout, search: Search, tmp_path: Path
):
    """What somebody else made is theirs to remove."""
    ours = add_indirect_root(layout, f"{tmp_path}/gone")
    (gcroots / "other").symlink_to(f"{tmp_path}/gone")
    assert await search.find() == []
    assert search.remarks == [f"removing stale link from `{ours}' to `{tmp_path}/gone'"]
    assert os.listdir(gcroots / "auto") == []
    assert (gcroots / "other").is_symlink()


@pytest.mark.parametrize("added_again", [False, True])
async def test_a_link_that_comes_back_meanwhile_is_a_root(
    gcroots: Path,
    layout: Layout,
    search: Search,
    item: StorePath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    added_again: bool,
):
    """A user who makes a link just when ours is about to go keeps the item."""
    user = tmp_path / "result"
    ours = add_indirect_root(layout, str(user))
    rename = os.rename

    def rename_later(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(module.os, "rename", rename)
        user.symlink_to(item)
        rename(*arguments, **options)
        if added_again:
            add_indirect_root(layout, str(user))

    monkeypatch.setattr(module.os, "rename", rename_later)
    assert await search.find() == [Root(str(user), item)]
    assert [f"{gcroots}/auto/{name}" for name in os.listdir(gcroots / "auto")] == [ours]
    assert search.remarks == []


async def test_loops_and_names_that_lead_nowhere_are_passed_over(
    gcroots: Path, layout: Layout, search: Search, item: StorePath, tmp_path: Path
):
    """With a remark each, and the rest is found."""
    (tmp_path / "loop").symlink_to("loop")
    add_indirect_root(layout, f"{tmp_path}/loop/x")
    (gcroots / "long").symlink_to(f"/{'x' * 300}")
    (gcroots / "self").symlink_to("self")
    (gcroots / "up").symlink_to("..")
    (gcroots / "good").symlink_to(item)
    assert await search.find() == [Root(f"{gcroots}/good", item)]
    reasons = sorted(text.rpartition(": ")[2] for text in search.remarks)
    assert reasons == ["File name too long", "Too many levels of symbolic links"]


@pytest.mark.usefixtures("no_leaks")
async def test_a_very_deep_tree_is_no_problem(gcroots: Path, search: Search, item: StorePath):
    """What has no name that anybody could use is passed over; the rest is found."""
    fd = os.open(gcroots, os.O_RDONLY)
    name = "d" * 100
    for _ in range(300):
        os.mkdir(name, dir_fd=fd)
        os.symlink(item, "link", dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        found = await search.find()
    finally:
        # What cleans up after tests does not get so deep.
        fd = os.open(gcroots, os.O_RDONLY)
        delete_tree(fd, name)
        os.close(fd)
    assert len(found) > 30
    assert [text.rpartition(": ")[2] for text in search.remarks] == ["File name too long"]


@pytest.mark.usefixtures("no_leaks")
async def test_a_great_many_entries_are_looked_at(gcroots: Path, search: Search, item: StorePath):
    """More than are taken at once."""
    for number in range(1500):
        os.symlink(item, gcroots / f"link{number:04}")
    assert [root.link for root in await search.find()] == [
        f"{gcroots}/link{number:04}" for number in range(1500)
    ]


@pytest.mark.usefixtures("gcroots")
def test_a_directory_that_becomes_a_link_is_not_followed(
    layout: Layout, make_path: MakePath, tmp_path: Path
):
    """Between listing it and going there its owner may do anything."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(make_path("secret"))
    mine = Path(layout.profiles, "per-user", "me")
    mine.mkdir()
    found = []
    for finding in walk_roots(layout):
        found.append(finding)
        if mine.is_dir() and not mine.is_symlink():
            mine.rmdir()
            mine.symlink_to(elsewhere)
    assert not any(isinstance(each, Candidate) for each in found)
    found.clear()
    walk = walk_roots(layout)
    next(walk)
    mine.parent.rename(tmp_path / "moved")
    mine.parent.symlink_to(tmp_path / "moved")
    assert not any(isinstance(each, Candidate) for each in walk)


@pytest.mark.usefixtures("no_leaks")
async def test_an_error_of_the_disk_is_no_remark(
    gcroots: Path, search: Search, item: StorePath, monkeypatch: pytest.MonkeyPatch
):
    """A root that is overlooked might be collected."""
    (gcroots / "good").symlink_to(item)

    def fail(*_arguments: object, **_options: object) -> str:
        raise OSError(errno.EIO, "broken disk")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "readlink", fail)
        with pytest.raises(OSError, match="broken disk"):
            await search.find()


@pytest.mark.usefixtures("gcroots")
async def test_whoever_gives_up_waits_for_no_disk(
    layout: Layout, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Looking at a user's link may take for ever, as on a network."""
    add_indirect_root(layout, f"{tmp_path}/far-away")
    begun, answer = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def hang(_path: str) -> bool:
        token.run_sync_soon(begun.set)
        answer.wait()
        return True

    monkeypatch.setattr(module, "_exists", hang)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search.find)
            await begun.wait()
            nursery.cancel_scope.cancel()
    finally:
        answer.set()
