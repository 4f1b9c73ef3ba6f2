# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots are shared fairly, never lost, and never given twice."""

import trio
from trio.testing import wait_all_tasks_blocked

from builder.slots import Slot, Slots


async def test_askers_take_turns_whatever_they_ask_for():
    """One asker with many goals does not delay another's single one."""
    slots = Slots(1)
    order: list[str] = []

    async def use(asker: str) -> None:
        slot = await slots.acquire(asker)
        order.append(asker)
        slots.release(slot)

    first = await slots.acquire("first")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(use, "many")
        await wait_all_tasks_blocked()
        nursery.start_soon(use, "one")
        await wait_all_tasks_blocked()
        slots.release(first)
    assert order == ["many", "one", "many", "many"]
    assert slots.statistics().taken == 0


async def test_a_cancelled_wait_leaves_no_trace():
    """A slot that was granted to a cancelled task goes to the next one."""
    slots = Slots(1)
    holder = await slots.acquire("holder")
    with trio.move_on_after(0) as scope:
        await slots.acquire("impatient")
    assert scope.cancelled_caught
    assert slots.statistics().waiting == 0
    slots.release(holder)
    assert slots.acquire_nowait()


async def test_a_slot_granted_while_the_waiter_is_cancelled_is_given_back():
    """Grant and cancellation in the same step do not lose the slot."""
    slots = Slots(1)
    holder = await slots.acquire("holder")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.acquire, "waiter")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        slots.release(holder)
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


async def test_who_wants_to_be_alone_waits_until_it_is():
    """Meanwhile the others go on; while it has its slot, nobody else gets one."""
    slots = Slots(3)
    first, second = await slots.acquire("a"), await slots.acquire("a")
    taken: list[Slot] = []

    async def quietly() -> None:
        taken.append(await slots.acquire("quiet", limit=1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(quietly)
        await wait_all_tasks_blocked()
        third = await slots.acquire("a")
        slots.release(first)
        slots.release(second)
        await wait_all_tasks_blocked()
        assert not taken
        slots.release(third)
    assert slots.acquire_nowait() is None
    assert taken[0].beside == 0
    slots.release(taken[0])
    assert slots.acquire_nowait() is not None


async def test_half_the_slots_are_half_the_slots():
    """Nobody joins beyond the smallest limit of those who run."""
    slots = Slots(4)
    quiet = await slots.acquire("quiet", limit=2)
    beside = await slots.acquire("a")
    assert slots.acquire_nowait() is None
    assert (quiet.beside, beside.beside) == (1, 1)
    slots.release(quiet)
    assert slots.acquire_nowait() is not None


async def test_patience_ends(
    autojump_clock: None,  # noqa: ARG001 - pytest-trio takes a clock from arguments alone
):
    """Then no one else is started before it, and its turn comes."""
    slots = Slots(2)
    running = [await slots.acquire("a"), await slots.acquire("a")]
    order: list[str] = []

    async def use(name: str, limit: int | None = None) -> None:
        slot = await slots.acquire(name, limit, patience=60)
        order.append(name)
        await trio.sleep(1)
        slots.release(slot)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, "quiet", 1)
        await trio.sleep(30)
        nursery.start_soon(use, "early")
        slots.release(running.pop())
        await trio.sleep(40)
        nursery.start_soon(use, "late")
        await trio.sleep(10)
        slots.release(running.pop())
    assert order == ["early", "quiet", "late"]
    assert slots.statistics().taken == 0


async def test_who_gives_up_waiting_holds_up_nobody(
    autojump_clock: None,  # noqa: ARG001 - pytest-trio takes a clock from arguments alone
):
    """Not even if its patience was over."""
    slots = Slots(2)
    running = await slots.acquire("a")
    with trio.move_on_after(10):
        await slots.acquire("quiet", limit=1, patience=1)
    assert slots.acquire_nowait() is not None
    slots.release(running)
