# SPDX-License-Identifier: GPL-3.0-or-later
"""Temporary roots, with a collector that follows the C++ daemon's protocol."""

import fcntl
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from store import filelocks
from store.filelocks import LockMode
from store.layout import Layout
from store.paths import StorePath
from store.temproots import TempRoots


class ThreadHolder:
    """Waits for locks in threads, as the locker would in its process."""

    @asynccontextmanager
    async def hold(self, files: Sequence[int], *, shared: bool = False) -> AsyncIterator[None]:
        """Wait in a thread for each lock."""
        mode = LockMode.SHARED if shared else LockMode.EXCLUSIVE
        for fd in files:
            await trio.to_thread.run_sync(filelocks.wait, fd, mode, abandon_on_cancel=True)
        yield


@contextmanager
def collecting(layout: Layout) -> Iterator[list[str]]:
    """Hold what a collector holds, in its order; give the roots it read."""
    with open(layout.gc_lock, "a+b") as big_lock:
        fcntl.lockf(big_lock, fcntl.LOCK_EX)
        names = sorted(os.listdir(layout.temp_roots))
        files = [os.open(f"{layout.temp_roots}/{name}", os.O_RDWR) for name in names]
        try:
            for fd in files:
                assert not filelocks.try_lock(fd, LockMode.EXCLUSIVE), "its owner is alive"
                assert filelocks.try_lock(fd, LockMode.SHARED)
            contents = [os.pread(fd, 1 << 24, 0) for fd in files]
            yield [root.decode() for data in contents for root in data.split(b"\0")[:-1]]
            fcntl.lockf(big_lock, fcntl.LOCK_UN)
        finally:
            for fd in files:
                os.close(fd)


def roots_on_disk(layout: Layout) -> list[str]:
    """Read what a collector would read now."""
    with collecting(layout) as roots:
        return roots


@pytest.fixture
async def roots(layout: Layout) -> AsyncIterator[TempRoots]:
    """The temporary roots of this process."""
    async with TempRoots.open(layout, ThreadHolder()) as roots:
        yield roots


async def test_the_file_is_named_after_the_process_and_private(roots: TempRoots, layout: Layout):
    """It goes when the daemon goes."""
    assert roots.live() == frozenset()
    path = f"{layout.temp_roots}/{os.getpid()}"
    assert os.stat(path).st_mode & 0o777 == 0o600


async def test_no_file_is_left(layout: Layout):
    """A stale one of an earlier process with the same number is replaced."""
    os.makedirs(layout.temp_roots)
    fd = filelocks.open_lock_file(f"{layout.temp_roots}/{os.getpid()}")
    os.write(fd, b"/elsewhere/a\0")
    os.close(fd)
    async with TempRoots.open(layout, ThreadHolder()):
        assert roots_on_disk(layout) == []
    assert os.listdir(layout.temp_roots) == []


async def test_a_collector_reads_what_sessions_hold(
    roots: TempRoots, layout: Layout, make_path: Callable[[str], StorePath]
):
    """Each path once, however many sessions hold it."""
    a, b = make_path("a"), make_path("b")
    first, second = roots.session(), roots.session()
    await first.add(a)
    await second.add(a, b)
    await second.add(b)
    assert sorted(roots_on_disk(layout)) == sorted([a, b])
    first.close()
    assert roots.live() == {a, b}
    second.close()
    assert roots.live() == frozenset()


async def test_a_root_waits_for_the_collector(
    roots: TempRoots,
    layout: Layout,
    make_path: Callable[[str], StorePath],
    nursery: trio.Nursery,
):
    """It is not written while garbage is being deleted; one that is there needs no wait."""
    session = roots.session()
    await session.add(make_path("old"))
    added = trio.Event()

    async def add() -> None:
        await session.add(make_path("new"))
        added.set()

    with collecting(layout) as seen:
        assert seen == [make_path("old")]
        await roots.session().add(make_path("old"))
        nursery.start_soon(add)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert not added.is_set()
        assert make_path("new") not in roots.live()
    await added.wait()
    assert make_path("new") in roots_on_disk(layout)


async def test_a_root_added_twice_at_once_is_given_up_once(
    roots: TempRoots,
    layout: Layout,
    make_path: Callable[[str], StorePath],
):
    """Two requests of one session may name the same item while both wait for a collector."""
    session = roots.session()
    async with trio.open_nursery() as adding:
        with collecting(layout):
            for _ in range(2):
                adding.start_soon(session.add, make_path("new"))
            for _ in range(20):
                await trio.lowlevel.checkpoint()
    assert roots.live() == {make_path("new")}
    session.close()
    assert roots.live() == frozenset()


async def test_very_many_roots_are_added_and_given_up_in_portions(
    roots: TempRoots, layout: Layout, make_path: Callable[[str], StorePath], nursery: trio.Nursery
):
    """Others get their turn in between."""
    paths = [make_path(str(number)) for number in range(5000)]
    seen: set[int] = set()

    async def watch() -> None:
        while len(roots.live()) < len(paths):
            seen.add(len(roots.live()))
            await trio.lowlevel.checkpoint()
        while roots.live():
            seen.add(len(roots.live()))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(roots.run)
    session = roots.session()
    async with trio.open_nursery() as watching:
        watching.start_soon(watch)
        await session.add(*paths)
        assert len(roots_on_disk(layout)) == len(paths)
        session.close()
    assert len(seen) >= 5
    with trio.fail_after(10):
        while roots_on_disk(layout):
            await trio.sleep(0.001)


async def test_waiting_for_a_collector_can_be_cancelled(
    roots: TempRoots, layout: Layout, make_path: Callable[[str], StorePath]
):
    """And leaves nothing held."""
    session = roots.session()
    with collecting(layout), trio.move_on_after(0.01) as scope:
        await session.add(make_path("new"))
    assert scope.cancelled_caught
    assert roots.live() == frozenset()
    assert make_path("new") not in session
    await session.add(make_path("new"))
    assert roots.live() == {make_path("new")}


async def test_the_file_stays_small(
    roots: TempRoots, layout: Layout, make_path: Callable[[str], StorePath]
):
    """Roots that nobody needs are dropped from it, those needed are not."""
    keeper = roots.session()
    await keeper.add(make_path("kept"))
    for start in range(0, 20_000, 500):
        with roots.session() as session:
            await session.add(*(make_path(str(number)) for number in range(start, start + 500)))
    found = roots_on_disk(layout)
    assert make_path("kept") in found
    assert len(found) < 2000


async def test_the_collectors_lock_keeps_new_files_away(layout: Layout):
    """A daemon that starts during a collection waits."""
    os.makedirs(layout.temp_roots)
    with collecting(layout), trio.move_on_after(0.01) as scope:
        async with TempRoots.open(layout, ThreadHolder()):
            pytest.fail("made a file of roots during a collection")
    assert scope.cancelled_caught


def test_locks_are_whole_file_posix_compatible_ones(tmp_path: Path):
    """A POSIX lock of the same process conflicts with ours, as another process's would."""
    path = tmp_path / "lock"
    fd = filelocks.open_lock_file(str(path))
    other = os.open(path, os.O_RDWR)
    assert filelocks.try_lock(fd, LockMode.EXCLUSIVE)
    request = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 10, 1, 0)
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(other, fcntl.F_SETLK, request)
    filelocks.unlock(fd)
    fcntl.fcntl(other, fcntl.F_SETLK, request)
    assert not filelocks.try_lock(fd, LockMode.EXCLUSIVE)
    os.close(other)
    os.close(fd)
