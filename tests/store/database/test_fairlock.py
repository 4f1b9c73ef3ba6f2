# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of this process's writers."""

import pytest
import trio

from store.database.fairlock import FairLock


async def test_waiters_are_served_in_order(nursery: trio.Nursery):
    """The lock goes from hand to hand; who comes later waits longer."""
    lock = FairLock()
    order: list[int] = []

    async def take(number: int) -> None:
        async with lock:
            order.append(number)
            await trio.lowlevel.checkpoint()

    await lock.acquire()
    for number in range(20):
        nursery.start_soon(take, number)
        await trio.testing.wait_all_tasks_blocked()
    lock.release()
    assert not lock.try_acquire()
    await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(20))
    statistics = lock.statistics()
    assert (statistics.taken, statistics.waited, statistics.waiting) == (21, 20, 0)


async def test_a_free_lock_is_taken_without_giving_way():
    """Which keeps small writes cheap."""
    lock = FairLock()
    with trio.testing.assert_no_checkpoints():
        assert lock.try_acquire()
        lock.release()


async def test_who_gives_up_leaves_the_line(nursery: trio.Nursery):
    """And the lock to the next."""
    lock = FairLock()
    done = trio.Event()

    async def take() -> None:
        async with lock:
            done.set()

    await lock.acquire()
    with trio.move_on_after(0.01) as scope:
        await lock.acquire()
    assert scope.cancelled_caught
    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()
    lock.release()
    await done.wait()


async def test_the_lock_is_released_by_errors():
    """So that one failed write does not stop the others."""
    lock = FairLock()
    with pytest.raises(ValueError, match="mine"):
        async with lock:
            raise ValueError("mine")
    assert lock.try_acquire()
