# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping processes on CPUs: where a wake-up crosses CPUs, it is most of a round trip."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.benchmarks.processes import GONE, tree


def cpus() -> list[int]:
    """The CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def pinned(client: int, *daemons: int, daemon: int) -> Iterator[Callable[[], None]]:
    """Keep this process on CPU `client`, and daemons with all they started on CPU `daemon`.

    Yields:
        What keeps there whatever the daemons have started since: a peer's sessions are
        processes, some of which choose their CPUs anew.
    """
    everywhere = os.sched_getaffinity(0)

    def pin(cpus: set[int]) -> None:
        for pid in daemons:
            for each in tree(pid):
                _pin(each, cpus)

    try:
        os.sched_setaffinity(0, {client})
        pin({daemon})
        yield lambda: pin({daemon})
    finally:
        os.sched_setaffinity(0, everywhere)
        pin(everywhere)


def _pin(pid: int, cpus: set[int]) -> None:
    with suppress(*GONE):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):  # a thread that ended since
                os.sched_setaffinity(int(task), cpus)
