# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots are shared fairly, never lost, and never given twice."""

import trio
from trio.testing import wait_all_tasks_blocked

from builder.admission.slots import Asker, Claim, Slot, Slots, SlotStatistics


def by(user: str, session: int = 0, priority: int = 0) -> Claim:
    """Make somebody's claim."""
    claim = Claim(f"{user}'s goal", [Asker(user, session)])
    claim.set_priority(priority)
    return claim


async def test_askers_take_turns_whatever_they_ask_for():
    """One asker with many goals does not delay another's single one."""
    slots = Slots(1)
    order: list[str] = []

    async def use(asker: str) -> None:
        slot = await slots.acquire(by(asker))
        order.append(asker)
        slots.release(slot)

    first = await slots.acquire(by("first"))
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
    holder = await slots.acquire(by("holder"))
    with trio.move_on_after(0) as scope:
        await slots.acquire(by("impatient"))
    assert scope.cancelled_caught
    assert slots.statistics().waiting == 0
    slots.release(holder)
    assert slots.acquire_nowait(by("a"))


async def test_a_slot_granted_while_the_waiter_is_cancelled_is_given_back():
    """Grant and cancellation in the same step do not lose the slot."""
    slots = Slots(1)
    holder = await slots.acquire(by("holder"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.acquire, by("waiter"))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        slots.release(holder)
    assert slots.statistics().taken == 0


async def test_more_slots_wake_waiters_at_once():
    """A raised number of slots takes effect without a release."""
    slots = Slots(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.acquire, by("waiter"))
        await wait_all_tasks_blocked()
        assert slots.statistics().waiting == 1
        slots.resize(1)
    assert slots.statistics().taken == 1


async def test_who_wants_to_be_alone_waits_until_it_is():
    """Meanwhile the others go on; while it has its slot, nobody else gets one."""
    slots = Slots(3)
    first, second = await slots.acquire(by("a")), await slots.acquire(by("a"))
    taken: list[Slot] = []

    async def quietly() -> None:
        taken.append(await slots.acquire(by("quiet"), limit=1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(quietly)
        await wait_all_tasks_blocked()
        third = await slots.acquire(by("a"))
        slots.release(first)
        slots.release(second)
        await wait_all_tasks_blocked()
        assert not taken
        slots.release(third)
    assert slots.acquire_nowait(by("a")) is None
    assert taken[0].beside == 0
    slots.release(taken[0])
    assert slots.acquire_nowait(by("a")) is not None


async def test_half_the_slots_are_half_the_slots():
    """Nobody joins beyond the smallest limit of those who run."""
    slots = Slots(4)
    quiet = await slots.acquire(by("quiet"), limit=2)
    beside = await slots.acquire(by("a"))
    assert slots.acquire_nowait(by("a")) is None
    assert (quiet.beside, beside.beside) == (1, 1)
    slots.release(quiet)
    assert slots.acquire_nowait(by("a")) is not None


async def test_patience_ends(
    autojump_clock: None,  # noqa: ARG001 - pytest-trio takes a clock from arguments alone
):
    """Then no one else is started before it, and its turn comes."""
    slots = Slots(2)
    running = [await slots.acquire(by("a")), await slots.acquire(by("a"))]
    order: list[str] = []

    async def use(name: str, limit: int | None = None) -> None:
        slot = await slots.acquire(by(name), limit, patience=60)
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
    running = await slots.acquire(by("a"))
    with trio.move_on_after(10):
        await slots.acquire(by("quiet"), limit=1, patience=1)
    assert slots.acquire_nowait(by("a")) is not None
    slots.release(running)


async def finish_in_order(slots: Slots, claims: list[Claim]) -> list[str]:
    """Let claims wait for the only slot, and give their goals in the order of their turns."""
    order: list[str] = []

    async def use(claim: Claim) -> None:
        slot = await slots.acquire(claim)
        order.append(claim.goal)
        slots.release(slot)

    first = await slots.acquire(by("first"))
    async with trio.open_nursery() as nursery:
        for claim in claims:
            nursery.start_soon(use, claim)
            await wait_all_tasks_blocked()
        slots.release(first)
    assert slots.statistics() == SlotStatistics(1, 0, 0)
    return order


def named(goal: str, user: str, session: int = 0, priority: int = 0) -> Claim:
    """Make a claim for a goal with a name."""
    claim = by(user, session, priority)
    claim.goal = goal
    return claim


async def test_sessions_of_one_user_share_that_users_turns():
    """Many sessions get a user no more than one would."""
    claims = [named(f"a{i}", "alice", session=i) for i in range(3)]
    order = await finish_in_order(Slots(1), [*claims, named("b0", "bob"), named("b1", "bob")])
    assert order == ["a0", "b0", "a1", "b1", "a2"]


async def test_ten_thousand_goals_do_not_delay_anothers_single_one():
    """Neither by their turns, nor by what it costs to choose."""
    slots = Slots(1)
    first = await slots.acquire(by("first"))
    order: list[str] = []

    async def use(claim: Claim) -> None:
        slot = await slots.acquire(claim)
        order.append(claim.goal)
        slots.release(slot)

    async with trio.open_nursery() as nursery:
        for number in range(10_000):
            nursery.start_soon(use, named(f"a{number}", "alice", session=number % 7))
        await wait_all_tasks_blocked()
        nursery.start_soon(use, named("b", "bob"))
        await wait_all_tasks_blocked()
        slots.release(first)
    assert order.index("b") <= 1
    assert len(order) == 10_001


async def test_who_has_fewer_slots_comes_first():
    """Long builds count for as long as they last."""
    slots = Slots(4)
    for _ in range(3):
        await slots.acquire(by("alice"))
    last = await slots.acquire(by("bob"))
    got: list[str] = []

    async def use(user: str) -> None:
        await slots.acquire(by(user))
        got.append(user)

    async with trio.open_nursery() as nursery:
        for user in ("alice", "alice", "bob", "bob", "carol"):
            nursery.start_soon(use, user)
            await wait_all_tasks_blocked()
        slots.release(last)
        await wait_all_tasks_blocked()
        assert len(got) == 1
        assert got[0] in {"bob", "carol"}
        slots.resize(6)
        await wait_all_tasks_blocked()
        assert sorted(got) == ["bob", "bob", "carol"]
        nursery.cancel_scope.cancel()


async def test_priorities_matter_among_one_users_goals_only():
    """They order that user's goals, and take nobody's share."""
    claims = [named("low", "alice", priority=-1), named("usual", "alice")]
    claims += [named("high", "alice", 1, priority=5), named("bob's", "bob", priority=-9)]
    assert await finish_in_order(Slots(1), claims) == ["high", "bob's", "usual", "low"]


async def test_a_priority_may_change_while_waiting():
    """The queue is in the new order at once."""
    slots = Slots(1)
    claims = [named("one", "alice"), named("two", "alice"), named("three", "alice")]
    order: list[str] = []

    async def use(claim: Claim) -> None:
        slot = await slots.acquire(claim)
        order.append(claim.goal)
        slots.release(slot)

    first = await slots.acquire(by("alice"))
    async with trio.open_nursery() as nursery:
        for claim in claims:
            nursery.start_soon(use, claim)
            await wait_all_tasks_blocked()
        claims[2].set_priority(3)
        claims[0].set_priority(-3)
        slots.release(first)
    assert order == ["three", "two", "one"]


async def test_what_two_users_want_comes_with_the_first_turn_of_either():
    """Joining a goal at the end of another's long queue brings it forward."""
    slots = Slots(1)
    order: list[str] = []

    async def use(claim: Claim) -> None:
        slot = await slots.acquire(claim)
        order.append(claim.goal)
        slots.release(slot)

    first = await slots.acquire(by("first"))
    claims = [named(f"a{i}", "alice") for i in range(4)]
    async with trio.open_nursery() as nursery:
        for claim in claims:
            nursery.start_soon(use, claim)
            await wait_all_tasks_blocked()
        claims[3].add(Asker("bob"))
        claims[2].add(Asker("carol"))
        claims[2].remove(Asker("alice"))
        slots.release(first)
    assert order == ["a0", "a3", "a2", "a1"]
    assert slots.statistics() == SlotStatistics(1, 0, 0)


async def test_turns_are_by_weight():
    """A user who comes later, or asks for one after the other, is not made up to or put off."""
    slots = Slots(1)
    order: list[str] = []

    async def use(user: str, weight: int) -> None:
        slot = await slots.acquire(Claim("", [Asker(user, 0, weight)]))
        order.append(user)
        await trio.lowlevel.checkpoint()
        slots.release(slot)

    async def one_by_one(user: str, weight: int) -> None:
        for _ in range(4):
            await use(user, weight)

    first = await slots.acquire(by("first"))
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(use, "heavy", 3)
        await wait_all_tasks_blocked()
        nursery.start_soon(one_by_one, "light", 1)
        await wait_all_tasks_blocked()
        slots.release(first)
    assert order.count("heavy") == 12
    assert 1 <= order[:8].count("light") <= 2
