# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of builds: attempts, and what comes of many of them."""

from dataclasses import dataclass
from typing import NamedTuple

from builder.retries.policy import Cause, Quiet
from store.paths import StorePath


class Attempt(NamedTuple):
    """One attempt at building a derivation.

    Attributes:
        drv: The derivation.
        name: Its name, without the hash.
        number: Which attempt of its build it was, from 1.
        started: When, in seconds since 1970.
        seconds: How long it took.
        cause: What ended it.
        detail: That in words, such as the error's message; empty after a success.
        quiet: How quiet the machine had to be.
        beside: The most builds that ran at the same time.
        cores: How many cores the builder was told to use; 0 for all.
        load_before: The load average at the start.
        load_after: And at the end.
        memory_before: Bytes of memory available at the start.
        memory_after: And at the end.
        peak_memory: The most bytes of memory that the builder had; 0 where unknown.
        cpu_seconds: Processor time of the builder and its children.
        log_file: Where its output is; empty where none was kept.
    """

    drv: StorePath
    name: str
    number: int
    started: float
    seconds: float
    cause: Cause
    detail: str = ""
    quiet: Quiet = Quiet.USUAL
    beside: int = 0
    cores: int = 0
    load_before: float = 0.0
    load_after: float = 0.0
    memory_before: int = 0
    memory_after: int = 0
    peak_memory: int = 0
    cpu_seconds: float = 0.0
    log_file: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether its outputs were accepted."""
        return self.cause is Cause.SUCCESS


@dataclass(frozen=True, slots=True)
class Flaky:
    """Derivations of one name that fail, and pass when it is quiet.

    Attributes:
        name: Their name.
        failures: Attempts that failed before one of the same build passed.
        passes: Builds that passed after a failure.
        quiet: What the latest of these needed.
        last: When that was, in seconds since 1970.
    """

    name: str
    failures: int
    passes: int
    quiet: Quiet
    last: float
