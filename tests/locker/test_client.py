# SPDX-License-Identifier: GPL-3.0-or-later
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from locker.aio import AsyncChannel
from locker.batches import BATCH
from locker.channel import close_all
from locker.client import Lease, Locker
from locker.errors import ChannelClosedError, LockError, MessageError
from locker.filelock import try_lock
from locker.messages import CODEC, AcquireLocksReply, GetStatisticsReply, Outcome
from locker.start import start_helper

if TYPE_CHECKING:
    from tests.locker.conftest import HoldElsewhere

Open = Callable[..., int]
NOTHING = GetStatisticsReply(held=0, contended=0, waiting=0, blocked=0)


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Open]:
    """Give a function that opens a file of a name, each time anew; all are closed at the end."""
    opened: list[int] = []

    def open_file(name: str = "file", flags: int = os.O_RDWR) -> int:
        fd = os.open(tmp_path / name, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
        opened.append(fd)
        return fd

    yield open_file
    close_all(opened)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """Give a temporary directory where making ten thousand files takes no time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def count_descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


async def settle(locker: Locker) -> GetStatisticsReply:
    """Wait until the locker has no thread that still gives up, and give its counts."""
    with trio.fail_after(20):
        while True:
            counts = await locker.inspect()
            if counts.blocked == 0 or counts.waiting:
                return counts


async def test_a_lock_is_held_as_long_as_its_block(locker: Locker, open_file: Open) -> None:
    """Also after the caller has closed the file."""
    other = open_file()
    mine = os.dup(open_file("x"))
    os.close(mine)
    fd = os.open(f"/proc/self/fd/{other}", os.O_RDWR)
    async with locker.hold([fd]) as lease:
        os.close(fd)
        assert len(lease) == 1
        assert not try_lock(other, shared=True)
        assert locker.statistics().held == 1
    assert await locker.inspect() == NOTHING
    assert try_lock(other, shared=False)


async def test_shared_locks_are_held_side_by_side(locker: Locker, open_file: Open) -> None:
    """An exclusive one has to wait for them."""
    async with (
        locker.hold([open_file()], shared=True),
        locker.hold([open_file()], shared=True),
        locker.try_hold([open_file()]) as third,
    ):
        assert third is None
        assert (await locker.inspect()).held == 2


async def test_trying_takes_all_files_or_none(locker: Locker, open_file: Open) -> None:
    """A contended file frees those before it."""
    async with locker.hold([open_file("b")]):
        async with locker.try_hold([open_file("a"), open_file("b"), open_file("c")]) as lease:
            assert lease is None
        assert (await locker.inspect()).held == 1
        async with locker.try_hold([open_file("a"), open_file("c")]) as lease:
            assert lease is not None
            assert len(lease) == 2
            assert (await locker.inspect()).held == 3


async def test_waiters_in_one_daemon_are_served_in_order_without_threads(
    locker: Locker, open_file: Open
) -> None:
    """First come, first served; a shared waiter does not overtake an exclusive one."""
    order: list[int] = []

    async def wait(number: int, *, shared: bool) -> None:
        async with locker.hold([open_file()], shared=shared):
            order.append(number)
            await locker.inspect()

    async with trio.open_nursery() as nursery, locker.hold([open_file()], shared=True):
        for number in range(20):
            nursery.start_soon(partial(wait, number, shared=number % 4 == 3))
            await wait_all_tasks_blocked()
        assert await locker.inspect() == GetStatisticsReply(1, 1, 20, 0)
        assert order == []
    assert order == list(range(20))
    assert await locker.inspect() == NOTHING


async def test_shared_waiters_are_served_together(locker: Locker, open_file: Open) -> None:
    """When the exclusive lock before them is released."""
    holding = 0
    all_hold = trio.Event()

    async def wait() -> None:
        nonlocal holding
        async with locker.hold([open_file()], shared=True):
            holding += 1
            if holding == 5:
                all_hold.set()
            await all_hold.wait()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery, locker.hold([open_file()]):
            for _ in range(5):
                nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert holding == 0


async def test_other_processes_are_waited_for(
    locker: Locker, open_file: Open, tmp_path: Path, hold_elsewhere: "HoldElsewhere"
) -> None:
    """By one thread of the locker a file, however many wait; the daemon goes on meanwhile."""
    holders = [hold_elsewhere(tmp_path / name) for name in "ab"]
    got: list[str] = []

    async def wait(name: str) -> None:
        async with locker.hold([open_file(name)]):
            got.append(name)

    async with trio.open_nursery() as nursery:
        for name in "aaabbb":
            nursery.start_soon(wait, name)
        await wait_all_tasks_blocked()
        assert await locker.inspect() == GetStatisticsReply(0, 2, 6, 2)
        await trio.to_thread.run_sync(holders[1].release)
        await wait_all_tasks_blocked()
        while len(got) < 3:
            await locker.inspect()
        assert got == ["b"] * 3
        await trio.to_thread.run_sync(holders[0].release)
    assert got == ["b"] * 3 + ["a"] * 3
    assert await locker.inspect() == NOTHING


async def test_many_files_of_other_processes_are_waited_for_at_once(
    locker: Locker, open_file: Open
) -> None:
    """A second locker is the other process; it has a hundred files that the first waits for."""
    helper = start_helper("locker")
    other = Locker(AsyncChannel(helper.socket, CODEC))
    names = [str(number) for number in range(100)]

    async def wait(name: str) -> None:
        async with locker.hold([open_file(name)]):
            pass

    async with trio.open_nursery() as nursery:
        await nursery.start(other.run)
        files = [open_file(name) for name in names]
        async with trio.open_nursery() as waiting, other.hold(files):
            for name in names:
                waiting.start_soon(wait, name)
            await wait_all_tasks_blocked()
            assert await locker.inspect() == GetStatisticsReply(0, 100, 100, 100)
        nursery.cancel_scope.cancel()
    assert await locker.inspect() == NOTHING
    await trio.to_thread.run_sync(os.waitpid, helper.pid, 0)


async def test_giving_up_leaves_nothing_behind(
    locker: Locker, open_file: Open, tmp_path: Path, hold_elsewhere: "HoldElsewhere"
) -> None:
    """Neither a lock, nor a wait, nor a thread; files locked before are released."""
    holder = hold_elsewhere(tmp_path / "foreign")
    async with locker.hold([open_file("own")]):
        for contended in ("foreign", "own"):
            async with trio.open_nursery() as nursery:
                files = [open_file("free"), open_file(contended), open_file("after")]
                nursery.start_soon(locker.acquire, files, os.dup)
                await wait_all_tasks_blocked()
                assert (await locker.inspect()).held == 2
                nursery.cancel_scope.cancel()
            counts = await settle(locker)
            assert (counts.held, counts.waiting, counts.contended) == (1, 0, 0)
    holder.release()
    assert try_lock(open_file("foreign"), shared=False)


async def test_giving_up_the_first_place_lets_the_next_wait(
    locker: Locker, open_file: Open, tmp_path: Path, hold_elsewhere: "HoldElsewhere"
) -> None:
    """The thread that waits for the first is replaced by one for the second."""
    holder = hold_elsewhere(tmp_path / "file")
    first = trio.CancelScope()
    got: list[str] = []

    async def wait(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with locker.hold([open_file()]):
                got.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "first", first)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait, "second", trio.CancelScope())
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        assert (await locker.inspect()).waiting == 1
        await trio.to_thread.run_sync(holder.release)
    assert got == ["second"]
    assert await settle(locker) == NOTHING


def open_directory(path: Path) -> int:
    """Open a directory that is to be locked."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


async def test_a_grant_that_crosses_a_cancellation_is_released(
    locker: Locker, tmp_path: Path
) -> None:
    """The lock comes while the task stops waiting for it."""
    acquire = partial(locker.acquire, [tmp_path], open_directory, shared=True)
    for _ in range(200):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(acquire)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert await locker.inspect() == NOTHING
    assert locker.statistics().pending == 0


async def test_a_file_that_cannot_be_locked_is_named(locker: Locker, open_file: Open) -> None:
    """And nothing stays locked."""
    files = {"good": os.O_RDWR, "bad": os.O_RDONLY}

    def opener(name: str) -> int:
        return os.dup(open_file(name, files[name]))

    with pytest.raises(LockError, match="cannot lock `bad': Bad file descriptor") as caught:
        await locker.acquire(list(files), opener)
    assert caught.value.reason == "lock-refused"
    assert await locker.inspect() == NOTHING


async def test_an_opener_that_fails_leaves_nothing_behind(locker: Locker, open_file: Open) -> None:
    """Its error arrives; what was opened or locked before is closed and released."""
    before = count_descriptors()

    def opener(number: int) -> int:
        if number == 2 * BATCH + 5:
            raise FileNotFoundError(number)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)

    fd = open_file()
    with pytest.raises(FileNotFoundError):
        await locker.acquire(range(3 * BATCH), opener, shared=True)
    assert count_descriptors() == before + 1
    assert await locker.inspect() == NOTHING


async def test_directories_can_be_locked_too(locker: Locker, tmp_path: Path) -> None:
    """A store item is often one."""
    lease = await locker.acquire([tmp_path], open_directory, shared=True)
    assert lease is not None
    assert (await locker.inspect()).held == 1
    await lease.release()


async def test_ten_thousand_locks_take_no_descriptors_here(
    locker: Locker, memory_path: Path
) -> None:
    """Each item of a large closure can be locked while the daemon's own table stays flat."""
    count = 10_000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < count + 100:
        pytest.skip("the locker may not open so many files")
    names = [memory_path / str(number) for number in range(count)]
    for name in names:
        os.mknod(name)
    before = count_descriptors()
    most = 0

    def opener(name: Path) -> int:
        nonlocal most
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        most = max(most, fd)
        return fd

    lease = await locker.acquire(names, opener, shared=True)
    assert lease is not None
    assert count_descriptors() == before
    assert most < before + 2 * BATCH + 10
    assert (await locker.inspect()).held == len(lease) == count
    other = os.open(names[-1], os.O_RDWR)
    assert not try_lock(other, shared=False)
    os.close(other)
    await lease.release()
    assert await locker.inspect() == NOTHING


async def test_tokens_of_many_requests_are_released_at_once(
    locker: Locker, memory_path: Path
) -> None:
    """However many there are, and in whatever order; those in between stay."""
    names = [memory_path / str(number) for number in range(1000)]
    for name in names:
        os.mknod(name)
    lease = await locker.acquire(names, lambda name: os.open(name, os.O_RDONLY), shared=True)
    assert lease is not None
    tokens = lease.disown()
    await locker.release([*reversed(tokens[600:]), *tokens[:599]])
    assert (await locker.inspect()).held == locker.statistics().held == 1
    await locker.release(tokens[599:600])
    assert await locker.inspect() == NOTHING


async def overlap_locks(locker: Locker, path: Path, rounds: int) -> None:
    """Open and lock p1 and p2, close p1, open and lock p3, close the rest; in batches."""
    size = BATCH // 2

    async def lock() -> Lease:
        lease = await locker.acquire(
            [path] * size, partial(os.open, flags=os.O_RDONLY), shared=True
        )
        assert lease is not None
        return lease

    def is_free() -> bool:
        rival = os.open(path, os.O_RDWR)
        free = try_lock(rival, shared=False)
        os.close(rival)
        return free

    for _ in range(rounds // size):
        first, second = await lock(), await lock()
        await first.release()
        third = await lock()
        await second.release()
        assert (await locker.inspect()).held == size
        assert not is_free()
        await third.release()
        await locker.inspect()
        assert is_free()


@pytest.mark.parametrize("rounds", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_overlapping_read_locks_neither_leak_nor_drop(
    locker: Locker, open_file: Open, tmp_path: Path, rounds: int
) -> None:
    """Closing one reader's file does not drop the others' locks, as it would with POSIX locks."""
    open_file("database")
    before = count_descriptors()
    await overlap_locks(locker, tmp_path / "database", rounds)
    assert count_descriptors() == before
    assert await locker.inspect() == NOTHING


def open_lock_file(path: Path) -> int:
    """Open a file that is to be locked."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


async def test_the_death_of_the_locker_reaches_everybody(open_file: Open, tmp_path: Path) -> None:
    """Who waits gets an error, `run` ends with one, and releasing is harmless."""
    helper = start_helper("locker")
    locker = Locker(AsyncChannel(helper.socket, CODEC))
    failures: list[type] = []

    async def expect_failure(action: Callable[[], Awaitable[object]]) -> None:
        try:
            await action()
        except ChannelClosedError as error:
            failures.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_failure, locker.run)
        await wait_all_tasks_blocked()
        lease = await locker.acquire([tmp_path / "file"], open_lock_file)
        assert lease is not None
        async with lease:

            async def wait() -> None:
                async with locker.hold([open_file()]):
                    pass

            nursery.start_soon(expect_failure, wait)
            await wait_all_tasks_blocked()
            await locker.inspect()
            os.kill(helper.pid, signal.SIGKILL)
            await trio.to_thread.run_sync(os.waitpid, helper.pid, 0)
            await wait_all_tasks_blocked()
            assert failures == [ChannelClosedError] * 2
            await expect_failure(locker.inspect)
            await expect_failure(wait)
    assert failures == [ChannelClosedError] * 4
    assert try_lock(open_file(), shared=False)


async def test_a_reply_to_nothing_is_an_error(
    seqpacket_pair: tuple[socket.socket, socket.socket],
) -> None:
    """A locker that was taken over cannot make the daemon believe in locks."""
    locker = Locker(AsyncChannel(seqpacket_pair[0], CODEC))
    seqpacket_pair[1].send(CODEC.encode(AcquireLocksReply(7, 1, Outcome.GRANTED, 0)))
    with pytest.raises(MessageError, match="unexpected AcquireLocksReply"):
        await locker.run()
