# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that read slowly lose speed or output, never the daemon's memory or others' time."""

from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from builder.events import BuildEvent, BuildLog, Message
from builder.scheduling.audience import LOG_BOUND, Audience, EventQueue

if TYPE_CHECKING:
    from tests.builder.conftest import MakePath


async def read_all(queue: EventQueue) -> list[BuildEvent]:
    """Return what a closed queue still holds."""
    return [event async for event in queue]


async def test_events_arrive_in_order_and_end_when_the_queue_is_closed(path: "MakePath"):
    """What was put before the end is still delivered."""
    queue = EventQueue()
    events: list[BuildEvent] = [Message("a"), BuildLog(path("x.drv"), 1, b"b"), Message("c")]
    for event in events:
        queue.put(event)
    queue.close()
    assert await read_all(queue) == events


async def test_a_sole_follower_that_does_not_read_makes_the_builder_wait(path: "MakePath"):
    """Its queue holds no more than the bound and one piece."""
    audience, queue = Audience(), EventQueue()
    audience.add(queue)
    told = 0

    async def tell() -> None:
        nonlocal told
        for _ in range(10):
            await audience.tell_log(BuildLog(path("x.drv"), 1, bytes(LOG_BOUND // 4)))
            told += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        await wait_all_tasks_blocked()
        assert told == 4
        await anext(queue)
        await wait_all_tasks_blocked()
        assert told == 5
        queue.close()


async def test_among_several_followers_the_slow_one_loses_output_and_is_told(path: "MakePath"):
    """The builder and the others do not wait for it."""
    audience, slow, quick = Audience(), EventQueue(), EventQueue()
    audience.add(slow)
    audience.add(quick)
    piece = BuildLog(path("x.drv"), 1, bytes(LOG_BOUND))
    received = 0
    for _ in range(3):
        await audience.tell_log(piece)
        await anext(quick)
        received += 1
    assert received == 3
    await anext(slow)
    await audience.tell_log(piece)
    slow.close()
    said, log = await read_all(slow)
    assert isinstance(said, Message)
    assert str(2 * LOG_BOUND) in said.text
    assert log == piece


async def test_who_waits_for_events_is_told_at_once_and_in_order():
    """What cannot be told without waiting enters the queue, and all that comes after it."""
    at_once, later = list[BuildEvent](), list[BuildEvent]()
    able = True

    def tell_now(event: BuildEvent) -> bool:
        if able:
            at_once.append(event)
        return able

    events = [Message(letter) for letter in "abcd"]
    queue = EventQueue(tell_now)
    queue.put(events[0])
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            async for event in queue:
                later.append(event)

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        queue.put(events[1])
        able = False
        queue.put(events[2])
        able = True
        queue.put(events[3])
        queue.close()
    assert at_once == [events[1]]
    assert later == [events[0], *events[2:]]
