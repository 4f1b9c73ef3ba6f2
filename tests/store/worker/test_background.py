# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets a worker when some are in a hurry and others are not; the test does the work."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from locker.aio import AsyncChannel
from locker.start import StartedHelper, start_helper
from store.layout import Layout
from store.links import MINIMUM_SIZE
from store.worker.client import StoreWorkers, WorkerError
from store.worker.messages import CODEC, HashPath, HashPathReply


class Pool:
    """Workers whose work the test does.

    Attributes:
        doing: The name that each worker is to hash.
        done: The names that were hashed, in order.
        failed: The names that were not.
    """

    def __init__(self, width: int, nursery: trio.Nursery) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(width)]
        self.workers = StoreWorkers(AsyncChannel(ours, CODEC) for ours, _ in pairs)
        self.ends = [AsyncChannel(theirs, CODEC) for _, theirs in pairs]
        self.doing: list[str | None] = [None] * width
        self.done: list[str] = []
        self.failed: list[str] = []
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}
        self._lives = [trio.CancelScope() for _ in range(width)]

    async def start(self) -> None:
        """Start serving."""
        await self._nursery.start(self.workers.run)
        for number in range(len(self.ends)):
            self._nursery.start_soon(self._receive, number)

    async def _receive(self, number: int) -> None:
        with self._lives[number]:
            while True:
                message, fds = await self.ends[number].receive()
                assert isinstance(message, HashPath)
                for fd in fds:
                    os.close(fd)
                self.doing[number] = message.name

    async def die(self, number: int) -> None:
        """Have a worker end."""
        self._lives[number].cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        self.ends[number].close()
        self.doing[number] = None
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def ask(self, name: str, *, background: bool) -> None:
        """Ask for something; wait until it is where it can be."""
        self._scopes[name] = trio.CancelScope()
        self._nursery.start_soon(self._ask, name, background)
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def _ask(self, name: str, background: bool) -> None:
        fd = os.open("/", os.O_RDONLY)
        with self._scopes[name]:
            try:
                await self.workers.hash_path(fd, name, background=background)
                self.done.append(name)
            except WorkerError:
                self.failed.append(name)
        os.close(fd)

    async def give_up(self, name: str) -> None:
        """Have whoever asked for something go away."""
        self._scopes[name].cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def answer(self, name: str) -> None:
        """Do what a worker is to do."""
        number = self.doing.index(name)
        self.doing[number] = None
        await self.ends[number].send(HashPathReply(bytes(32), 0, None))
        await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.fixture
async def make_pool(nursery: trio.Nursery) -> AsyncIterator[Callable[..., Pool]]:
    """Make pools, which are closed after the test."""
    pools: list[Pool] = []

    def make(width: int) -> Pool:
        pools.append(Pool(width, nursery))
        return pools[-1]

    yield make
    nursery.cancel_scope.cancel()
    for pool in pools:
        pool.workers.close()
        for end in pool.ends:
            end.close()


async def test_one_worker_is_left_for_those_in_a_hurry(make_pool: Callable[..., Pool]):
    """However much is to be done in the background."""
    pool = make_pool(3)
    await pool.start()
    for name in "abcd":
        await pool.ask(name, background=True)
    assert pool.workers.background_width == 2
    assert sorted(filter(None, pool.doing)) == ["a", "b"]
    await pool.ask("now", background=False)
    assert "now" in pool.doing
    await pool.answer("now")
    assert sorted(filter(None, pool.doing)) == ["a", "b"]
    await pool.answer("a")
    assert sorted(filter(None, pool.doing)) == ["b", "c"]


async def test_whoever_is_in_a_hurry_goes_first(make_pool: Callable[..., Pool]):
    """Also where there is one worker, which both have to share."""
    pool = make_pool(1)
    await pool.start()
    await pool.ask("a", background=True)
    await pool.ask("b", background=True)
    await pool.ask("now", background=False)
    assert pool.doing == ["a"]
    await pool.answer("a")
    assert pool.doing == ["now"]
    await pool.answer("now")
    await pool.answer("b")
    assert pool.done == ["a", "now", "b"]


async def test_what_was_given_up_counts_until_it_is_done(make_pool: Callable[..., Pool]):
    """Whoever asks and goes away, again and again, gets no more than others."""
    pool = make_pool(2)
    await pool.start()
    for name in "abc":
        await pool.ask(name, background=True)
        await pool.give_up(name)
    await pool.ask("d", background=True)
    assert sorted(filter(None, pool.doing)) == ["a"]
    await pool.answer("a")
    assert sorted(filter(None, pool.doing)) == ["d"]
    await pool.answer("d")
    assert pool.done == ["d"]


async def test_a_dead_worker_leaves_less_for_the_background(make_pool: Callable[..., Pool]):
    """Whose work it did is told; without any worker, all who wait are."""
    pool = make_pool(3)
    await pool.start()
    for name in "abcd":
        await pool.ask(name, background=True)
    await pool.die(pool.doing.index("a"))
    assert pool.failed == ["a"]
    assert pool.workers.background_width == 1
    assert sorted(filter(None, pool.doing)) == ["b"]
    await pool.answer("b")
    assert sorted(filter(None, pool.doing)) == ["c"]
    idle = next(number for number in range(3) if pool.doing[number] is None)
    for number in sorted(range(3), key=lambda each: each != idle):
        if not pool.ends[number].closed:
            await pool.die(number)
    assert sorted(pool.failed) == ["a", "c", "d"]
    await pool.ask("e", background=True)
    assert pool.failed[-1] == "e"


@pytest.fixture
def helper() -> Iterator[StartedHelper]:
    """A real worker."""
    helper = start_helper("store.worker")
    yield helper
    helper.socket.close()
    os.waitpid(helper.pid, 0)


async def test_a_real_worker_shares_files(
    helper: StartedHelper, layout: Layout, nursery: trio.Nursery
):
    """With the index that it made before, until something is wrong."""
    workers = StoreWorkers.from_helpers([helper])
    await nursery.start(workers.run)
    for name in ("a", "b"):
        Path(layout.store, name).write_bytes(b"x" * MINIMUM_SIZE)
        Path(layout.store, name).chmod(0o444)
    Path(layout.links, "known").touch()
    fds = {
        "store_fd": os.open(layout.store, os.O_RDONLY),
        "links_fd": os.open(layout.links, os.O_RDONLY),
        "index_fd": os.memfd_create("index"),
    }
    assert await workers.index_links(fds["links_fd"], fds["index_fd"]) == 1
    replies = [await workers.share_files(name, **fds) for name in ("a", "b", "absent")]
    assert [(reply.files, reply.size) for reply in replies] == [(0, 0), (1, MINIMUM_SIZE), (0, 0)]
    assert [reply.failure is None for reply in replies] == [True, True, False]
    assert "No such file or directory" in replies[2].failure.message
    with pytest.raises(WorkerError):
        await workers.index_links(fds["index_fd"], fds["index_fd"])
    for fd in fds.values():
        os.close(fd)
    workers.close()
