# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots are shared fairly, never lost, and never given twice."""

import trio
from trio.testing import wait_all_tasks_blocked

from builder.slots import Slots


async def test_askers_take_turns_whatever_they_ask_for():
    """One asker with many goals does not delay another's single one."""
    slots = Slots(1)
    order: list[str] = []

    async def use(asker: str) -> None:
        await slots.acquire(asker)
        order.append(asker)
        slots.release()

    await slots.acquire("first")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(use, "many")
        await wait_all_tasks_blocked()
        nursery.start_soon(use, "one")
        await wait_all_tasks_blocked()
        slots.release()
    assert order == ["many", "one", "many", "many"]
    assert slots.statistics().taken == 0


async def test_a_cancelled_wait_leaves_no_trace():
    """A slot that was granted to a cancelled task goes to the next one."""
    slots = Slots(1)
    await slots.acquire("holder")
    with trio.move_on_after(0) as scope:
        await slots.acquire("impatient")
    assert scope.cancelled_caught
    assert slots.statistics().waiting == 0
    slots.release()
    assert slots.acquire_nowait()


async def test_a_slot_granted_while_the_waiter_is_cancelled_is_given_back():
    """Grant and cancellation in the same step do not lose the slot."""
    slots = Slots(1)
    await slots.acquire("holder")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.acquire, "waiter")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        slots.release()
    assert slots.statistics().taken == 0


async def test_more_slots_wake_waiters_at_once():
    """A raised number of slots takes effect without a release."""
    slots = Slots(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.acquire, "waiter")
        await wait_all_tasks_blocked()
        assert slots.statistics().waiting == 1
        slots.resize(1)
    assert slots.statistics().taken == 1
