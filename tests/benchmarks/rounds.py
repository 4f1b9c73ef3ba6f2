# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking turns: each contestant runs once a round, so that a noisy minute hits all of them."""

import gc
import time
from collections.abc import Callable

from tests.benchmarks.figures import Series

Contestant = Callable[[], float]
"""Does its work once, and tells what it took; setting up is its own business, untimed."""


def take_turns(
    rounds: int,
    ours: Contestant,
    *,
    floor: Contestant | None = None,
    peer: Contestant | None = None,
) -> Series:
    """Run the contestants in turn, and an unmeasured round before, which warms all of them up."""
    contestants = {"floor": floor, "ours": ours, "peer": peer}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    gc.collect()
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            if contestant is not None:
                value = contestant()
                if number:
                    taken[name].append(value)
    return Series(taken["ours"], taken["floor"], taken["peer"])


def timed(action: Callable[[], object], count: int = 1) -> float:
    """Do something a number of times, and tell how long it took each time, in seconds."""
    started = time.perf_counter()
    for _ in range(count):
        action()
    return (time.perf_counter() - started) / count
