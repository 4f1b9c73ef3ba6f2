# SPDX-License-Identifier: GPL-3.0-or-later
"""What a collection tells of itself, in order; a dialect makes words of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """What a collection is about to do."""

    WAITING = "waiting"
    ROOTS = "roots"
    MARKING = "marking"
    DELETING = "deleting"
    TRASH = "trash"
    LINKS = "links"


@dataclass(frozen=True, slots=True)
class Entered:
    """A stage begins; `total` is how many things it will deal with, where that is known."""

    stage: Stage
    total: int = 0


@dataclass(frozen=True, slots=True)
class Remark:
    """A line for people; one that is `important` concerns even those who want little of them."""

    text: str
    important: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """Items that went, or in a dry run would go, by the batch.

    Attributes:
        paths: The items.
        freed: What had been freed before each, in bytes, as far as that is known
            before all of it is gone.
        total: What has been freed after the last of them.
    """

    paths: tuple[str, ...]
    freed: tuple[int, ...]
    total: int


@dataclass(frozen=True, slots=True)
class LimitReached:
    """More than `limit` bytes are free now; nothing else will go."""

    limit: int


@dataclass(frozen=True, slots=True)
class Emptied:
    """So many of the things in the trash are gone, and so many bytes with them."""

    done: int
    freed: int


@dataclass(frozen=True, slots=True)
class Savings:
    """What deduplication saves now, less what it costs, in bytes."""

    saved: int


Event = Entered | Remark | Removed | LimitReached | Emptied | Savings
Report = Callable[[Event], Awaitable[None]]
