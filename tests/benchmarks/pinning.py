# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping processes on CPUs: where a wake-up crosses CPUs, it is most of a round trip."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def cpus() -> list[int]:
    """The CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def pinned(client: int, *daemons: int, daemon: int) -> Iterator[None]:
    """Keep this process on CPU `client`, and all threads of some daemons on CPU `daemon`."""
    everywhere = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {client})
        for pid in daemons:
            _pin(pid, {daemon})
        yield
    finally:
        os.sched_setaffinity(0, everywhere)
        for pid in daemons:
            _pin(pid, everywhere)


def _pin(pid: int, cpus: set[int]) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):  # a thread that ended since
                os.sched_setaffinity(int(task), cpus)
