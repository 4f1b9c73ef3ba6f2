# SPDX-License-Identifier: GPL-3.0-or-later
"""Collections on a real store: what goes, what stays, and what others do meanwhile."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from store import filelocks
from store.collection import Action, Event, Wish
from store.collection.events import Entered, Removed, Stage
from store.database import NewItem
from store.database.garbage import Keeping
from store.errors import StoreError
from store.filelocks import LockMode
from store.info import PathInfo
from store.paths import StorePath

from .conftest import Yard

MakeInfo = Callable[..., PathInfo]
MakePath = Callable[[str], StorePath]
ALL = Wish(Action.DELETE_DEAD)

# As the C++ daemon holds its file of temporary roots: a POSIX lock on all of it.
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b" if sys.argv[1].endswith("gc.lock") else "w+b")
fcntl.lockf(file, getattr(fcntl, sys.argv[2]))
file.write(b"".join(path.encode() + b"\\0" for path in sys.argv[3:]))
file.flush()
print("held", flush=True)
sys.stdin.read(1)
"""


class Holder:
    """Another process that holds a lock, with what it writes into the file."""

    def __init__(self, path: str, kind: str, *contents: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path, kind, *contents],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def end(self) -> None:
        """Let go."""
        self.process.communicate(b"x", timeout=10)


async def test_only_what_roots_reach_stays(yard: Yard, make_info: MakeInfo):
    """Files and directories alike, and those that refer to themselves."""
    low = await yard.add(make_info("low"))
    high = await yard.add(make_info("high", "low", "high"), directory=True)
    dead = [
        await yard.add(make_info("file", "low")),
        await yard.add(make_info("directory", "file", "directory"), directory=True),
    ]
    yard.root(high)
    done = await yard.collect(ALL)
    assert done.paths == tuple(sorted(dead))
    assert done.freed == 20
    assert yard.entries() == sorted([low, high])
    assert await yard.database.all_valid_paths() == {low, high}


async def test_referrers_go_first(yard: Yard, make_info: MakeInfo):
    """However young they are."""
    names = [f"i{number}" for number in range(50)]
    for before, name in zip(["", *names], names, strict=False):
        await yard.add(make_info(name, *filter(None, [before])))
    await yard.collect(ALL)
    order = [path for event in yard.events if isinstance(event, Removed) for path in event.paths]
    assert [path.rpartition("-")[2] for path in order] == names[::-1]


@pytest.mark.parametrize(
    ("keeping", "kept"),
    [
        (Keeping(outputs=False, derivations=True), {"root-output", "drv.drv"}),
        (Keeping(outputs=False, derivations=False), {"root-output"}),
        (Keeping(outputs=True, derivations=True), {"root-output", "drv.drv", "other-output"}),
    ],
)
async def test_derivations_and_outputs_stay_as_wished(
    yard: Yard, make_info: MakeInfo, make_path: MakePath, keeping: Keeping, kept: set[str]
):
    """A live output may keep its derivation, which may keep its other outputs."""
    drv = make_info("drv.drv")
    outputs = {"out": make_path("root-output"), "other": make_path("other-output")}
    Path(drv.path).touch()
    await yard.database.register([NewItem(drv, outputs)])
    for name in ("root-output", "other-output"):
        await yard.add(make_info(name, deriver="drv.drv"))
    yard.root(make_path("root-output"))
    live = await yard.collect(Wish(Action.LIST_LIVE, keeping=keeping))
    await yard.collect(Wish(Action.DELETE_DEAD, keeping=keeping))
    assert set(live.paths) == set(yard.entries()) == set(map(make_path, kept))


async def test_private_directories_are_not_listed_as_items(yard: Yard, make_path: MakePath):
    """They are needed, but they are nothing that a client could name."""
    rooted, private = make_path("rooted"), f"{yard.layout.store}/.incoming-1-x"
    os.mkdir(rooted)
    os.mkdir(private)
    yard.needed = {rooted, private}
    assert (await yard.collect(Wish(Action.LIST_LIVE))).paths == (rooted,)
    assert (await yard.collect(Wish(Action.LIST_DEAD))).paths == ()


async def test_what_is_made_at_the_moment_stays(yard: Yard, make_path: MakePath):
    """By its lock, as a root, or as a build's directory; what nobody makes goes."""
    locked, rooted, drv, left = map(make_path, ("locked", "rooted", "drv.drv", "left"))
    for path in (locked, rooted, f"{rooted}.lock", f"{left}.lock"):
        Path(path).touch()
    for path in (f"{drv}.chroot", left, f"{yard.layout.store}/.incoming-1-x"):
        os.mkdir(path)
    holder = Holder(f"{locked}.lock", "LOCK_EX")
    yard.needed = {drv}
    with yard.temp_roots.session() as roots:
        await roots.add(rooted)
        done = await yard.collect(ALL)
    assert done.paths == tuple(sorted([left, f"{left}.lock", f"{yard.layout.store}/.incoming-1-x"]))
    stays = [locked, f"{locked}.lock", rooted, f"{rooted}.lock", f"{drv}.chroot"]
    assert yard.entries() == sorted(stays)
    holder.end()


async def test_a_registered_item_that_is_gone_is_forgotten(yard: Yard, make_info: MakeInfo):
    """It is not said to have been deleted."""
    item = await yard.add(make_info("item"))
    os.unlink(item)
    assert (await yard.collect(ALL)).paths == ()
    assert not yard.database.is_valid(item)


# Other daemons


async def test_other_daemons_roots_are_respected(yard: Yard, make_info: MakeInfo):
    """Those of dead ones are not, and their files go."""
    kept = await yard.add(make_info("kept"))
    dead = await yard.add(make_info("dead"))
    temproots = yard.layout.temp_roots
    holder = Holder(f"{temproots}/99999998", "LOCK_SH", kept, "/elsewhere")
    stale = Path(temproots, "99999999")
    stale.write_bytes(dead.encode() + b"\0")
    assert (await yard.collect(ALL)).paths == (dead,)
    assert yard.remarks == [f"removing stale temporary roots file `{stale}'"]
    assert not stale.exists()
    holder.end()


@pytest.mark.parametrize("directory", [False, True])
async def test_what_another_daemons_build_has_locked_stays(
    yard: Yard, make_info: MakeInfo, directory: bool
):
    """With what it refers to, though nothing else keeps it; until the lock is gone."""
    lower = await yard.add(make_info("lower"))
    used = await yard.add(make_info("used", "lower"), directory=directory)
    user = await yard.add(make_info("user", "used"))
    opened: list[int] = []

    def lock(event: Event) -> None:
        # Before that, it would be seen among the files that processes have open.
        if event == Entered(Stage.DELETING):
            opened.append(os.open(used, os.O_RDONLY))
            assert filelocks.try_lock(opened[0], LockMode.SHARED)

    yard.hooks.append(lock)
    assert (await yard.collect(ALL)).paths == (user,)
    assert yard.database.is_valid(lower)
    assert any(used in remark for remark in yard.remarks)
    os.close(opened[0])
    yard.hooks.clear()
    assert set((await yard.collect(ALL)).paths) == {used, lower}


async def test_other_daemons_get_no_roots_while_garbage_is_deleted(yard: Yard, make_info: MakeInfo):
    """Neither by writing to their file, nor by making one; afterwards they do."""
    await yard.add(make_info("dead"))
    file = f"{yard.layout.temp_roots}/99999998"
    holder = Holder(file, "LOCK_SH")
    blocked: list[bool] = []

    def look(event: Event) -> None:
        if isinstance(event, Removed):
            # In another process, for a POSIX lock is the process's.
            command = "import fcntl,sys; fcntl.lockf(open(sys.argv[1],'r+b'), int(sys.argv[2]))"
            for path, kind in ((file, fcntl.LOCK_EX), (yard.layout.gc_lock, fcntl.LOCK_SH)):
                words = [sys.executable, "-c", command, path, str(kind | fcntl.LOCK_NB)]
                done = subprocess.run(words, check=False, stderr=subprocess.DEVNULL)
                blocked.append(done.returncode != 0)

    yard.hooks.append(look)
    await yard.collect(ALL)
    assert blocked == [True, True]
    holder.end()
    yard.hooks.clear()
    Holder(yard.layout.gc_lock, "LOCK_SH").end()


async def test_another_collection_is_waited_for(
    yard: Yard, make_info: MakeInfo, nursery: trio.Nursery
):
    """Which is said, and nothing is looked at before."""
    dead = await yard.add(make_info("dead"))
    Path(yard.layout.gc_lock).touch()
    holder = Holder(yard.layout.gc_lock, "LOCK_EX")
    nursery.start_soon(yard.collect, ALL)
    with trio.fail_after(10):
        while not yard.events:
            await trio.lowlevel.checkpoint()
    assert yard.events == [Entered(Stage.WAITING)]
    assert os.path.exists(dead)
    await trio.to_thread.run_sync(holder.end)
    with trio.fail_after(10):
        while os.path.exists(dead):
            await trio.lowlevel.checkpoint()


# Our own sessions meanwhile


async def test_what_a_session_comes_to_need_is_spared(yard: Yard, make_info: MakeInfo):
    """With what it refers to, though garbage was found before; and without waiting."""
    low = await yard.add(make_info("low"))
    high = await yard.add(make_info("high", "low"))
    first = await yard.add(make_info("first"))
    session = yard.temp_roots.session()

    async def report(event: Event) -> None:
        if isinstance(event, Entered) and event.stage is Stage.DELETING:
            with trio.fail_after(5):
                await session.add(high)

    done = await yard.collector.collect(ALL, report)
    assert done.paths == (first,)
    assert yard.database.is_valid(low)
    assert yard.database.is_valid(high)
    session.close()
    assert (await yard.collect(ALL)).paths == tuple(sorted([low, high]))


async def test_an_item_that_comes_to_be_referred_to_stays(yard: Yard, make_info: MakeInfo):
    """The database refuses to forget it, and the others of the batch go all the same."""
    low, other = await yard.add(make_info("low")), await yard.add(make_info("other"))
    stray = f"{yard.layout.store}/stray"
    Path(stray).touch()
    infos = [make_info("new", "low")]

    async def report(event: Event) -> None:
        # Strays go before registered items are looked at for the last time.
        if isinstance(event, Removed) and infos:
            session = yard.temp_roots.session()
            await session.add(infos[0].path)
            await yard.add(infos.pop())

    done = await yard.collector.collect(ALL, report)
    assert done.paths == tuple(sorted([other, stray]))
    assert yard.database.is_valid(low)
    assert os.path.exists(low)


async def test_giving_up_leaves_everything_whole(yard: Yard, make_info: MakeInfo):
    """What is registered is there; and the trash is emptied all the same."""
    for number in range(20):
        await yard.add(make_info(f"d{number}"), directory=True)
    with trio.CancelScope() as scope:

        async def report(event: Event) -> None:
            if isinstance(event, Entered) and event.stage is Stage.TRASH:
                assert len(os.listdir(f"{yard.layout.store}/trash")) == 20
                scope.cancel()
            await trio.lowlevel.checkpoint()

        await yard.collector.collect(ALL, report)
    assert scope.cancelled_caught
    with trio.fail_after(10):
        while yard.entries():
            await wait_all_tasks_blocked(0.01)
    # All locks are free again.
    await yard.temp_roots.sync_with_collector()
    assert (await yard.collect(ALL)).paths == ()


async def test_what_a_killed_collection_left_goes_with_the_next(yard: Yard, make_info: MakeInfo):
    """Trash, and things that were forgotten but not moved yet."""
    item = await yard.add(make_info("item"), directory=True)
    await yard.database.invalidate(item)
    os.mkdir(f"{yard.layout.store}/trash", 0o700)
    Path(yard.layout.store, "trash", "left").write_text("x" * 7)
    done = await yard.collect(ALL)
    assert done.paths == (item,)
    assert done.freed == 17
    assert yard.entries() == []


# Hostile contents


@pytest.mark.root
async def test_traps_in_garbage_lead_nowhere(yard: Yard, make_info: MakeInfo, tmp_path: Path):
    """Links to elsewhere, and directories that let nobody in."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    item = await yard.add(make_info("item"), directory=True)
    os.chmod(item, 0o755)
    os.symlink(outside, f"{item}/link")
    os.makedirs(f"{item}/closed/below")
    os.chmod(f"{item}/closed", 0)
    os.link(outside / "precious", f"{item}/second-name")
    os.symlink(outside, f"{yard.layout.store}/stray")
    os.symlink(outside / "precious", f"{yard.layout.store}/stray.lock")
    done = await yard.collect(ALL)
    assert len(done.paths) == 3
    assert yard.entries() == []
    assert (outside / "precious").read_text() == "x"


async def test_the_trash_may_be_no_link(yard: Yard, make_info: MakeInfo, tmp_path: Path):
    """What has its name goes, and nothing lands elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(outside, f"{yard.layout.store}/trash")
    await yard.add(make_info("item"), directory=True)
    await yard.collect(ALL)
    assert os.listdir(outside) == []
    assert yard.entries() == []


# Particular items


async def test_deletion_stops_at_the_first_that_is_alive(yard: Yard, make_info: MakeInfo):
    """As with the reference, what comes before it by name has gone by then."""
    items = sorted([await yard.add(make_info(name)) for name in ("a", "b", "c")])
    yard.root(items[1])
    with pytest.raises(StoreError) as caught:
        await yard.collect(Wish(Action.DELETE_SPECIFIC, items))
    assert caught.value.reason == "alive"
    assert caught.value.message == f"cannot delete path `{items[1]}' since it is still alive"
    assert yard.entries() == items[1:]


async def test_why_an_item_is_alive_goes_through_kept_derivations(
    yard: Yard, make_info: MakeInfo, make_path: MakePath
):
    """A derivation is alive because of its output."""
    drv = make_info("drv.drv", "source")
    await yard.add(make_info("source"))
    Path(drv.path).touch()
    await yard.database.register([NewItem(drv, {"out": make_path("out")})])
    out = await yard.add(make_info("out", deriver="drv.drv"))
    yard.root(out)
    [reason] = await yard.collector.explain(make_path("source"), Keeping(), yard.report)
    assert reason.chain == (out, drv.path, make_path("source"))
    assert reason.link == f"{yard.layout.gc_roots}/root"
    alone = Keeping(derivations=False)
    assert await yard.collector.explain(make_path("source"), alone, yard.report) == []
