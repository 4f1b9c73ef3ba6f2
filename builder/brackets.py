# SPDX-License-Identifier: GPL-3.0-or-later
"""Context managers for what every build goes through.

They do what those of `contextlib` do that are made of generators, in a third of the time,
and a build enters a dozen. Entry points: `Bracket`, `AsyncBracket`.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Bracket(Generic[T]):
    """Something that has begun already, and that leaving the context ends.

    Args:
        begun: What is given to who enters.
        end: Ends it.
    """

    __slots__ = ("_begun", "_end")

    def __init__(self, begun: T, end: Callable[[], None]) -> None:
        self._begun = begun
        self._end = end

    def __enter__(self) -> T:
        return self._begun

    def __exit__(self, *_: object) -> None:
        self._end()


class AsyncBracket(Generic[T]):
    """Something that entering the context begins, perhaps after a wait, and leaving it ends.

    Args:
        begin: Begins it, and gives what is given to who enters.
        end: Ends that.
    """

    __slots__ = ("_begin", "_begun", "_end")

    def __init__(self, begin: Callable[[], Awaitable[T]], end: Callable[[T], None]) -> None:
        self._begin = begin
        self._end = end

    async def __aenter__(self) -> T:
        self._begun = await self._begin()
        return self._begun

    async def __aexit__(self, *_: object) -> None:
        self._end(self._begun)
