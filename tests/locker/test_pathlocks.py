# SPDX-License-Identifier: GPL-3.0-or-later
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from locker.aio import AsyncChannel
from locker.client import Locker
from locker.errors import LockError
from locker.messages import CODEC
from locker.pathlocks import MAX_LOCAL, PathLease, PathLocks
from locker.start import start_helper

if TYPE_CHECKING:
    from tests.locker.conftest import HoldElsewhere


@pytest.fixture
def locks(locker: Locker) -> PathLocks:
    """Give path locks with a locker of their own."""
    return PathLocks(locker)


@pytest.fixture
def item(tmp_path: Path) -> str:
    """Give the path of an item."""
    return str(tmp_path / "item")


def lock_file(item: str) -> Path:
    """Give the lock file of a path."""
    return Path(item + ".lock")


async def test_a_free_path_is_locked_without_the_locker(
    locks: PathLocks, locker: Locker, item: str, hold_elsewhere: "HoldElsewhere"
) -> None:
    """The lock file is private, and left when the lock is released."""
    async with locks.hold([item]):
        assert stat.S_IMODE(lock_file(item).stat().st_mode) == 0o600
        async with locks.try_hold([item]) as again:
            assert again is None
    hold_elsewhere(lock_file(item)).release()
    assert locker.statistics().acquired == 0


async def test_the_lock_file_can_be_deleted_with_the_lock(locks: PathLocks, item: str) -> None:
    """Either as the block goes on, or when it ends."""
    async with locks.hold([item]) as lease:
        lease.delete_on_release()
        assert lock_file(item).exists()
    assert not lock_file(item).exists()
    lease = await locks.acquire([item])
    await lease.release(delete=True)
    await lease.release(delete=True)
    assert not lock_file(item).exists()


async def test_tasks_take_turns(locks: PathLocks, locker: Locker, item: str) -> None:
    """Each holds the lock alone, in the order of asking; the last deletes the file."""
    order: list[int] = []
    waited: list[str] = []

    async def work(number: int) -> None:
        async with locks.hold([item], waiting=waited.append) as lease:
            order.append(number)
            await trio.lowlevel.checkpoint()
            assert order[-1] == number
            lease.delete_on_release()

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(work, number)
            if number == 0:
                continue
            await wait_all_tasks_blocked()
    assert sorted(order) == list(range(10))
    assert waited == [item] * len(waited)
    assert not lock_file(item).exists()
    assert locker.statistics().held == 0


async def test_waiting_tasks_are_served_in_order(locks: PathLocks, item: str) -> None:
    """Nobody overtakes who waits, although each release deletes the file if it may."""
    order: list[int] = []

    async def work(number: int) -> None:
        async with locks.hold([item]) as lease:
            order.append(number)
            lease.delete_on_release()

    async with trio.open_nursery() as nursery, locks.hold([item]) as lease:
        lease.delete_on_release()
        for number in range(10):
            nursery.start_soon(work, number)
            await wait_all_tasks_blocked()
    assert order == list(range(10))
    assert not lock_file(item).exists()


@pytest.mark.parametrize("delete", [False, True])
async def test_another_daemon_is_waited_for(
    locks: PathLocks, item: str, hold_elsewhere: "HoldElsewhere", *, delete: bool
) -> None:
    """If it deletes the lock file, we start again with a new one."""
    holder = hold_elsewhere(lock_file(item))
    waited: list[str] = []

    async def work() -> None:
        async with locks.hold([item], waiting=waited.append):
            assert lock_file(item).stat().st_size == 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await wait_all_tasks_blocked()
        assert waited == [item]
        async with locks.try_hold([item]) as lease:
            assert lease is None
        await trio.to_thread.run_sync(lambda: holder.release(delete=delete))


@pytest.mark.parametrize("many", [False, True])
async def test_another_daemon_waits_for_us(
    locks: PathLocks, item: str, start_elsewhere: "HoldElsewhere", *, many: bool
) -> None:
    """If we delete the lock file, it sees that, and starts again with a new one."""
    paths = [item, *(f"{item}{number}" for number in range(MAX_LOCAL * many))]
    lease = await locks.acquire(paths)
    old = os.open(lock_file(item), os.O_RDONLY)
    other = start_elsewhere(lock_file(item))
    while f"-> POSIX  ADVISORY  WRITE {other.process.pid}" not in Path("/proc/locks").read_text():
        await trio.lowlevel.checkpoint()
    await lease.release(delete=True)
    await trio.to_thread.run_sync(other.wait_until_locked)
    assert os.fstat(old).st_nlink == 0
    os.close(old)
    async with locks.try_hold([item]) as again:
        assert again is None
    other.release()
    async with locks.try_hold([item]) as again:
        assert again is not None


async def test_opposite_orders_do_not_deadlock(locks: PathLocks, tmp_path: Path) -> None:
    """Paths are locked in the order of their names, whatever order they are given in."""
    paths = [str(tmp_path / name) for name in "abc"]

    async def work(order: list[str]) -> None:
        for _ in range(20):
            async with locks.hold(order):
                await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(work, paths)
                nursery.start_soon(work, paths[::-1])


async def test_paths_named_twice_are_locked_once(locks: PathLocks, item: str) -> None:
    """A set of paths is what is meant."""
    async with locks.hold([item, item]):
        pass


async def test_many_paths_are_held_by_the_locker(
    locks: PathLocks, locker: Locker, tmp_path: Path
) -> None:
    """So that they take no descriptors here; trying them is all or nothing."""
    paths = [str(tmp_path / str(number)) for number in range(300)]
    before = len(os.listdir("/proc/self/fd"))
    async with locks.hold(paths) as lease:
        assert len(os.listdir("/proc/self/fd")) == before
        assert locker.statistics().held == 300
        async with locks.try_hold([*paths, item_beside(tmp_path)]) as again:
            assert again is None
        async with locks.try_hold([paths[200]]) as again:
            assert again is None
        lease.delete_on_release()
    await locker.inspect()
    assert not list(tmp_path.glob("?.lock"))
    async with locks.try_hold(paths) as again:
        assert again is not None
    assert locker.statistics().held == 0


def item_beside(tmp_path: Path) -> str:
    """Give the path of an item that sorts first."""
    return str(tmp_path / "!first")


async def test_cancelled_waiting_releases_what_was_locked(locks: PathLocks, tmp_path: Path) -> None:
    """The paths before the one that was waited for are free again."""
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    async with locks.hold([second]):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(locks.acquire, [first, second])
            await wait_all_tasks_blocked()
            async with locks.try_hold([first]) as lease:
                assert lease is None
            nursery.cancel_scope.cancel()
        async with locks.try_hold([first]) as lease:
            assert lease is not None
    async with locks.try_hold([first, second]) as lease:
        assert lease is not None


async def test_shared_locks_keep_their_lock_file(locks: PathLocks, item: str) -> None:
    """Deleting it would let others in beside those who share it."""
    async with locks.hold([item], shared=True) as first, locks.hold([item], shared=True):
        with pytest.raises(ValueError, match="shared"):
            first.delete_on_release()
        async with locks.try_hold([item]) as lease:
            assert lease is None


async def test_a_symbolic_link_is_no_lock_file(locks: PathLocks, item: str, tmp_path: Path) -> None:
    """Who can write into the store's directory cannot have us open another file."""
    lock_file(item).symlink_to(tmp_path / "target")
    with pytest.raises(LockError, match=r"opening lock file `.*item\.lock'") as caught:
        await locks.acquire([item])
    assert caught.value.reason == "lock-file"
    assert not (tmp_path / "target").exists()


async def test_a_hard_link_is_not_written_into(locks: PathLocks, item: str, tmp_path: Path) -> None:
    """Deleting the lock file marks it only if that was its last name."""
    (tmp_path / "precious").touch()
    os.link(tmp_path / "precious", lock_file(item))
    async with locks.hold([item]) as lease:
        lease.delete_on_release()
    assert (tmp_path / "precious").stat().st_size == 0


@pytest.mark.parametrize("count", [1, MAX_LOCAL + 1])
async def test_a_lock_file_with_content_is_an_error(
    locks: PathLocks, tmp_path: Path, count: int
) -> None:
    """Rather than a search without end for one that is not stale."""
    paths = [str(tmp_path / f"{number:02}") for number in range(count)]
    lock_file(paths[-1]).write_text("something")
    with pytest.raises(LockError, match="is not empty") as caught:
        await locks.acquire(paths)
    assert caught.value.reason == "lock-file-in-use"
    lock_file(paths[-1]).unlink()
    async with locks.try_hold(paths) as lease:
        assert lease is not None


async def test_a_missing_directory_is_named(locks: PathLocks) -> None:
    """The error is about the lock file."""
    with pytest.raises(LockError, match=r"opening lock file `/nonexistent/x\.lock': No such file"):
        await locks.acquire(["/nonexistent/x"])


CONTENDER = """
import fcntl, os, sys
lock, counter = sys.argv[1:]
for _ in range(100):
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_size == 0:
            break
        os.close(fd)
    value = int(open(counter).read())
    open(counter, "w").write(str(value + 1))
    os.unlink(lock)
    os.write(fd, b"d")
    os.close(fd)
"""


def start_contender(lock: Path, counter: Path) -> subprocess.Popen[bytes]:
    """Start another daemon that counts."""
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", CONTENDER, lock, counter])


async def test_daemons_of_both_kinds_exclude_each_other(
    locks: PathLocks, item: str, tmp_path: Path
) -> None:
    """Two others and ten tasks count together, each deleting the lock file, and lose nothing."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    others = [start_contender(lock_file(item), counter) for _ in range(2)]

    async def work() -> None:
        for number in range(10):
            async with locks.hold([item]) as lease:
                value = int(counter.read_text())
                await trio.lowlevel.checkpoint()
                counter.write_text(str(value + 1))
                if number % 2:
                    lease.delete_on_release()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(work)
    codes = [await trio.to_thread.run_sync(other.wait) for other in others]
    assert codes == [0, 0]
    assert counter.read_text() == "300"


async def test_a_lock_that_was_lost_deletes_nothing(tmp_path: Path) -> None:
    """The lock file may be another daemon's by now, who must not lose it."""
    helper = start_helper("locker")
    locker = Locker(AsyncChannel(helper.socket, CODEC))
    paths = [str(tmp_path / str(number)) for number in range(MAX_LOCAL + 1)]
    async with trio.open_nursery() as nursery:
        await nursery.start(locker.run)
        lease = await PathLocks(locker).acquire(paths)
        nursery.cancel_scope.cancel()
    await lease.release(delete=True)
    assert all(lock_file(path).exists() for path in paths)
    await trio.to_thread.run_sync(os.waitpid, helper.pid, 0)


async def test_a_lease_can_be_a_block(locks: PathLocks, item: str) -> None:
    """What `acquire` gives is released at the end of an `async with`."""
    lease = await locks.acquire([item])
    assert isinstance(lease, PathLease)
    async with lease:
        pass
    async with locks.try_hold([item]) as again:
        assert again is not None
