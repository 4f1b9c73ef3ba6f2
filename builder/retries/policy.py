# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a build that failed is tried again, and how quiet the machine has to be for it. Pure.

Tests fail that would pass on a machine with less to do. So a failed build is tried
again with fewer builds beside it: first with half the slots in use, then alone. A
build that failed although it was alone, or whose failure no quiet would prevent, is
not tried again.

Entry points: `RetrySettings`, `decide`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The command line reads the options' choices from here, and must not wait for more.
    from builder.admission.machine import MachineState


class Quiet(IntEnum):
    """How quiet the machine has to be for a build."""

    USUAL = 0
    HALF = 1
    ALONE = 2

    @property
    def word(self) -> str:
        """Its name for users and programs."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> "Quiet":
        """Return what a name stands for.

        Raises:
            ValueError: It stands for nothing.
        """
        for each in cls:
            if each.word == word:
                return each
        raise ValueError(f"`{word}' says nothing of how quiet it has to be")


TERMS = {
    Quiet.USUAL.word: "as before",
    Quiet.HALF.word: "with half as many builds beside it",
    Quiet.ALONE.word: "alone on the machine",
}
"""How people are told of each."""


class Cause(StrEnum):
    """What ended an attempt; the words are stable, and those of the setting ``retry-on``."""

    SUCCESS = "success"
    EXIT = "exit"
    SIGNAL = "signal"
    MEMORY = "memory"
    TIMEOUT = "timeout"
    SILENCE = "silence"
    OTHER = "other"


RETRIABLE = (Cause.EXIT, Cause.SIGNAL, Cause.MEMORY, Cause.TIMEOUT, Cause.SILENCE)
"""The causes that a quieter machine may take away: no wrong hash, no user who cancels."""


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How often and when failed builds are tried again.

    Attributes:
        attempts: How often a derivation is built at most; 1 for no retries.
        delay: Seconds between a failure and the next attempt.
        causes: Those after which it is tried again.
        cores: How many cores a retry is told to use; 0 for as many as before.
        patience: Seconds after which no other build is started any more before one that
            waits for quiet.
        quiet_load: The load average below which the machine counts as quiet; 0 for never.
        quiet_pressure: Likewise in percent, for the pressure on processors, memory and disks.
        quiet_memory: Bytes of memory that must be available besides.
    """

    attempts: int = 1
    delay: float = 0.0
    causes: frozenset[Cause] = frozenset(RETRIABLE)
    cores: int = 0
    patience: float = 600.0
    quiet_load: float = 0.0
    quiet_pressure: float = 0.0
    quiet_memory: int = 0

    def is_quiet(self, machine: "MachineState") -> bool:
        """Tell whether the machine is so quiet that a build need not be alone."""
        if not self.quiet_load and not self.quiet_pressure:
            return False
        pressure = max(machine.cpu_pressure, machine.memory_pressure, machine.io_pressure)
        return (
            (not self.quiet_load or machine.load < self.quiet_load)
            and (not self.quiet_pressure or pressure < self.quiet_pressure)
            and machine.available_memory >= self.quiet_memory
        )


NO_RETRIES = RetrySettings()
"""One attempt, and no more."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What matters of an attempt that failed.

    Attributes:
        number: Which it was, from 1.
        cause: What ended it.
        quiet: How quiet the machine had to be.
        beside: The most builds that ran at the same time.
        limited: Whether it was out of memory by a limit that holds beside others only.
    """

    number: int
    cause: Cause
    quiet: Quiet
    beside: int
    limited: bool = False


def decide(settings: RetrySettings, ended: Ended) -> Quiet | None:
    """Return how quiet the machine has to be for the next attempt; None for no other.

    Out of memory, a build is tried alone at once: half a machine's builds would
    likely need too much again.
    """
    if ended.number >= settings.attempts or ended.cause not in settings.causes:
        return None
    if ended.beside == 0 and not ended.limited:
        return None
    if ended.cause is Cause.MEMORY:
        return Quiet.ALONE
    return Quiet(min(ended.quiet + 1, Quiet.ALONE))


def limit(quiet: Quiet, slots: int) -> int | None:
    """Return how many builds may run at once with one that needs this quiet, itself included."""
    match quiet:
        case Quiet.USUAL:
            return None
        case Quiet.HALF:
            return max(1, slots // 2)
        case Quiet.ALONE:
            return 1


def quiet_to_begin_with(passed: Iterable[Quiet]) -> Quiet:
    """Return how quiet the machine should be for a first attempt.

    Args:
        passed: What the last builds of derivations of the same name passed with, the
            latest first; none where none needed quiet.
    """
    return next(iter(passed), Quiet.USUAL)
