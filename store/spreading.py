# SPDX-License-Identifier: GPL-3.0-or-later
"""Working on many things, several at once, and dealing with the results one by one.

Entry point: `spread`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

Thing = TypeVar("Thing")
Result = TypeVar("Result")


@asynccontextmanager
async def spread(
    width: int, things: Iterable[Thing], work: Callable[[Thing], Awaitable[Result]]
) -> AsyncIterator[trio.MemoryReceiveChannel[Result]]:
    """Work on things in tasks of their own, which wait while their results are not taken.

    Leaving the context ends what was begun. What a task raises ends the context,
    and comes out of it as it is, in no group.

    Args:
        width: How many tasks.
        things: Taken in order.
        work: Done with each.

    Yields:
        The results, as they come.
    """
    send, receive = trio.open_memory_channel[Result](0)
    try:
        # The tasks end before the channel does: to them, that would be an error.
        with receive:
            async with trio.open_nursery() as nursery:
                pending = iter(things)
                for _ in range(width):
                    nursery.start_soon(_work, pending, work, send.clone())
                send.close()
                try:
                    yield receive
                finally:
                    nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        _, errors = group.split(trio.Cancelled)
        if errors is None:
            raise
        raise _first(errors) from group


async def _work(
    pending: Iterator[Thing],
    work: Callable[[Thing], Awaitable[Result]],
    results: trio.MemorySendChannel[Result],
) -> None:
    with results:
        for thing in pending:
            await results.send(await work(thing))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
