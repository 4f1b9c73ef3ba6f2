# SPDX-License-Identifier: GPL-3.0-or-later
"""Working on many things at once."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from store.spreading import spread

Listener = Callable[[trio.MemoryReceiveChannel[int]], Awaitable[None]]
Work = Callable[[int], Awaitable[int]]


class ListenerGoneError(Exception):
    """The one who wants the results is gone."""


async def double(number: int) -> int:
    """Work on a number."""
    await trio.lowlevel.checkpoint()
    return 2 * number


async def test_everything_is_worked_on_once():
    """By as many tasks as asked for, and no more."""
    busy, most = 0, 0

    async def work(number: int) -> int:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await trio.testing.wait_all_tasks_blocked()
        busy -= 1
        return number

    async with spread(3, range(20), work) as results:
        assert sorted([result async for result in results]) == list(range(20))
    assert most == 3


async def test_results_that_nobody_takes_hold_work_up():
    """There is no more in memory than there are tasks."""
    begun = []

    async def work(number: int) -> int:
        begun.append(number)
        return number

    async with spread(2, range(1000), work):
        await trio.testing.wait_all_tasks_blocked()
        assert begun == [0, 1]


async def fail(_: int) -> int:
    """Fail to work on a number."""
    raise ValueError("cannot do that")


async def take(results: trio.MemoryReceiveChannel[int]) -> None:
    """Take all results."""
    async for _ in results:
        pass


async def refuse(results: trio.MemoryReceiveChannel[int]) -> None:
    """Take one result and no more."""
    await results.receive()
    raise ListenerGoneError


async def spread_to(listener: Listener, work: Work) -> None:
    """Do some work for a listener."""
    async with spread(3, range(10), work) as results:
        await listener(results)


async def test_errors_come_out_as_they_are():
    """Of the work, and of whoever deals with the results."""
    with pytest.raises(ValueError, match="cannot do that"):
        await spread_to(take, fail)
    with pytest.raises(ListenerGoneError):
        await spread_to(refuse, double)


async def test_an_error_during_cancellation_is_an_error():
    """A client that hangs up while it is told something is both."""
    with trio.CancelScope() as scope:

        async def hang_up(results: trio.MemoryReceiveChannel[int]) -> None:
            await results.receive()
            scope.cancel()
            raise ListenerGoneError

        with pytest.raises(ListenerGoneError):
            await spread_to(hang_up, double)


async def test_cancellation_stays_cancellation():
    """And ends all tasks."""
    with trio.CancelScope() as scope:
        async with spread(3, range(10), double):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_leaving_early_ends_what_was_begun():
    """Nobody waits for results that nobody wants."""

    async def hang(_: int) -> None:
        await trio.sleep_forever()

    async with spread(3, range(10), hang):
        pass
