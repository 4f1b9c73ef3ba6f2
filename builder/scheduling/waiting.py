# SPDX-License-Identifier: GPL-3.0-or-later
"""What goals wait for, and who has it: plain data, and its wording.

Whoever has to wait shall be told for which thing, who has it, and since when.
Entry points: `Holder`, `Wait`, `running_builds`.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from builder.admission.slots import Slot

_NAMED = 3
"""How many holders are named in a text; the others are counted."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has what others wait for.

    Attributes:
        goal: The derivation or item that it is used for; empty where not known.
        user: For whom; empty where not known.
        pid: The process that has it, 0 where not known.
        command: That process's name, if it is none of this daemon's clients.
        since: Since when, in seconds since 1970; 0 where not known.
    """

    goal: str = ""
    user: str = ""
    pid: int = 0
    command: str = ""
    since: float = 0.0

    def __str__(self) -> str:
        """Describe it for people."""
        name = self.goal.rpartition("/")[2].partition("-")[2].removesuffix(".drv")
        process = f"{self.command} (pid {self.pid})" if self.command else ""
        if self.pid and not process and not name:
            process = f"pid {self.pid}"
        whom = f"for {self.user}" if self.user else ""
        since = f"since {clock(self.since)}" if self.since else ""
        return " ".join(filter(None, [name or process, process if name else "", whom, since]))


@dataclass(frozen=True, slots=True)
class Wait:
    """What a goal waits for; `reason` is for people, and `since` in seconds since 1970."""

    what: str
    reason: str
    holders: tuple[Holder, ...] = ()
    since: float = 0.0

    @property
    def text(self) -> str:
        """Say it in a line."""
        return f"{self.what}: {self.reason}" if self.reason else self.what

    @property
    def told(self) -> tuple[str, str, tuple[Holder, ...], float]:
        """The fields of the event that tells it."""
        return self.what, self.reason, self.holders, self.since


def clock(seconds: float) -> str:
    """Write a time of day, with the day if it is not today's."""
    when, now = time.localtime(seconds), time.localtime()
    form = "%H:%M:%S" if when[:3] == now[:3] else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, when)


def named(holders: Iterable[Holder]) -> str:
    """Name the first few of some holders, and count the others."""
    texts = list(filter(None, map(str, holders)))
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more


def slot_holders(slots: Iterable[Slot]) -> tuple[Holder, ...]:
    """Say who has slots."""
    return tuple(Holder(slot.claim.goal, slot.claim.user, since=slot.since) for slot in slots)


def running_builds(slots: Iterable[Slot], what: str = "builds") -> tuple[str, tuple[Holder, ...]]:
    """Say in words, and as data, what holds the slots that are waited for."""
    holders = slot_holders(slots)
    one = what.removesuffix("s")
    count = f"1 {one} is running" if len(holders) == 1 else f"{len(holders)} {what} are running"
    return (f"{count}: {named(holders)}" if holders else count), holders
