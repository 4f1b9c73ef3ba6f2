# SPDX-License-Identifier: GPL-3.0-or-later
"""Writers among themselves, beside other processes, and the log they fill."""

import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest
import trio
import trio.lowlevel

from store.database import NewItem, StoreDatabase, topological_order
from store.database.checkpoints import Checkpointer
from store.database.connection import open_connection
from store.database.fairlock import FairLock
from store.errors import StoreError
from store.info import PathInfo
from store.layout import Layout


@pytest.fixture
async def foreign_writer(layout: Layout, database: StoreDatabase) -> AsyncIterator[trio.Process]:
    """Another process that holds the database for writing until its input ends."""
    assert not database.has_failed("x")
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('begin immediate'); print('held', end='', flush=True); sys.stdin.read()\n"
        "c.execute('commit')\n"
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", script, layout.database_file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.receive_some() == b"held"
    yield process
    if process.stdin is not None:
        await process.stdin.aclose()
    await process.wait()
    await process.stdout.aclose()


async def test_another_process_is_waited_for(
    database: StoreDatabase,
    foreign_writer: trio.Process,
    make_info: Callable[..., PathInfo],
    nursery: trio.Nursery,
):
    """Writes wait in order, look-ups do not wait at all, and nothing fails."""
    order: list[str] = []

    async def register(name: str) -> None:
        await database.register([NewItem(make_info(name))])
        order.append(name)

    for name in ("a", "b", "c"):
        nursery.start_soon(register, name)
        await trio.lowlevel.checkpoint()
    with trio.move_on_after(0.05):
        while not order:
            assert not database.is_valid(make_info("a").path)
            await trio.lowlevel.checkpoint()
    assert order == []
    assert database.statistics().busy > 0
    assert database.statistics().waiting == 2
    assert foreign_writer.stdin is not None
    await foreign_writer.stdin.aclose()
    await trio.testing.wait_all_tasks_blocked(0.3)
    assert order == ["a", "b", "c"]


async def test_waiting_for_another_process_can_be_cancelled(
    database: StoreDatabase, foreign_writer: trio.Process, make_info: Callable[..., PathInfo]
):
    """The line goes on without the one that gave up."""
    with trio.move_on_after(0.03) as scope:
        await database.register([NewItem(make_info("a"))])
    assert scope.cancelled_caught
    assert foreign_writer.stdin is not None
    await foreign_writer.stdin.aclose()
    await foreign_writer.wait()
    await database.register([NewItem(make_info("b"))])
    assert not database.is_valid(make_info("a").path)


async def test_big_changes_are_made_off_the_loop(
    database: StoreDatabase, make_info: Callable[..., PathInfo], nursery: trio.Nursery
):
    """Other tasks go on meanwhile."""
    items = [NewItem(make_info(str(number))) for number in range(2000)]
    ticks = 0
    scope = trio.CancelScope()

    async def tick() -> None:
        nonlocal ticks
        with scope:
            while True:
                ticks += 1
                await trio.lowlevel.checkpoint()

    nursery.start_soon(tick)
    await database.register(items)
    scope.cancel()
    assert ticks > 10
    assert len(await database.all_valid_paths()) == 2000


async def test_the_log_is_moved_before_it_grows_long(
    layout: Layout, database: StoreDatabase, nursery: trio.Nursery
):
    """Its file stays short, however much is written, and no page is synced on the loop."""
    connection = open_connection(layout.database_file)
    lock = FairLock()
    checkpointer = Checkpointer(layout.database_file, lock, limit_pages=50)
    connection.set_wal_hook(checkpointer.note)
    nursery.start_soon(checkpointer.run)
    for number in range(600):
        async with lock:
            connection.execute("insert into FailedPaths values (?, 1)", (str(number),))
        checkpointer.wake()
        await trio.lowlevel.checkpoint()
        while number % 50 == 49 and checkpointer.pages >= 50:
            await trio.sleep(0.001)
    assert checkpointer.done >= 5
    assert checkpointer.failure is None
    assert os.stat(layout.database_file + "-wal").st_size < 250 * 4120
    connection.close()
    assert len(await database.failed_paths()) == 600
    nursery.cancel_scope.cancel()


async def test_a_reader_elsewhere_only_delays_moving_the_log(
    layout: Layout, database: StoreDatabase
):
    """A snapshot that another process keeps is neither harmed nor waited for."""
    checkpointer = Checkpointer(layout.database_file, FairLock(), limit_pages=1)
    reader = apsw.Connection(layout.database_file)
    reader.execute("begin")
    assert reader.execute("select count(*) from FailedPaths").get == 0
    await database.register_failed(["/x"])
    writer = open_connection(layout.database_file)
    checkpointer.note(writer, "main", 100)
    writer.close()
    checkpointer.wake()
    with trio.move_on_after(0.2):
        await checkpointer.run()
    assert checkpointer.done == 0
    assert reader.execute("select count(*) from FailedPaths").get == 0
    reader.execute("commit")
    reader.close()
    assert database.has_failed("/x")


async def test_two_daemons_share_a_database(layout: Layout, make_info: Callable[..., PathInfo]):
    """What one writes the other sees at once; both may create it at the same time."""
    written: list[str] = []
    async with trio.open_nursery() as nursery:
        both = trio.Event()

        async def serve(name: str) -> None:
            async with StoreDatabase.open(layout) as database:
                await database.register([NewItem(make_info(name))])
                written.append(name)
                if len(written) == 2:
                    both.set()
                await both.wait()
                assert len(await database.all_valid_paths()) == 2

        nursery.start_soon(serve, "a")
        nursery.start_soon(serve, "b")


async def test_a_failed_change_is_rolled_back_and_the_next_one_made(
    database: StoreDatabase, make_info: Callable[..., PathInfo]
):
    """Nobody inherits a broken transaction."""
    for _ in range(3):
        with pytest.raises(StoreError):
            await database.register([NewItem(make_info("a", "missing"))])
    await database.register([NewItem(make_info("a"))])
    assert len(await database.all_valid_paths()) == 1


async def test_bulk_queries_reuse_few_connections(layout: Layout, database: StoreDatabase):
    """However many run at once."""
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(database.all_valid_paths)
    names = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert names.count(layout.database_file) <= 6
    assert threading.active_count() < 60


def test_items_are_ordered_after_what_they_refer_to():
    """Itself and strangers count for nothing."""
    references = {"a": ["b", "c", "a"], "b": ["c", "x"], "c": [], "d": ["a"]}
    order = topological_order(references)
    assert sorted(order) == ["a", "b", "c", "d"]
    assert all(
        order.index(item) > order.index(below)
        for item, all_below in references.items()
        for below in all_below
        if below in references and below != item
    )


def test_a_long_chain_is_ordered_without_recursion():
    """As deep as the references of a whole distribution may go."""
    chain = {str(number): [str(number + 1)] for number in range(50_000)}
    order = topological_order(chain)
    assert order[0] == "49999"
    with pytest.raises(StoreError, match="cycle"):
        topological_order({**chain, "49999": ["0"]})
