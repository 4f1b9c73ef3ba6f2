# SPDX-License-Identifier: GPL-3.0-or-later
"""Builders that really take memory: measured, limited, and kept apart when it is short."""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from builder.admission.obstacles import AdmissionSettings
from builder.events import BuildRetried, BuildStarted, BuildSucceeded, GoalWaiting
from builder.memory.home import own_place
from builder.retries.policy import Cause, Quiet, RetrySettings
from store.paths import StorePath

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

MIB = 1024 * 1024
THREE = RetrySettings(attempts=3)

# `tail' keeps what it may have to print.
EAT = "{{ head -c {0}M /dev/zero; sleep {1}; }} | tail -c {0}M | wc -c"


def eater(seconds: float, *sizes: int) -> str:
    """Write a script whose processes take so many MiB each for some time."""
    parts = [EAT.format(size, seconds) for size in sizes]
    return " & ".join(parts) + " & wait; touch $out"


@pytest.fixture
def narrow() -> Iterator[str]:
    """Put this process into a cgroup of 600 MiB, as a service manager might."""
    place = own_place()
    if place is None or place.version != 1 or not os.access(place.directory, os.W_OK):
        pytest.skip("needs a memory cgroup of version 1 that can be written to")
    directory = f"{place.directory}/narrow-{os.getpid()}"
    os.mkdir(directory)
    try:
        _write(f"{directory}/memory.limit_in_bytes", 600 * MIB)
        _write(f"{directory}/cgroup.procs", os.getpid())
        yield directory
    finally:
        with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
            for pid in file.read().split():
                with suppress(ProcessLookupError):
                    _write(f"{place.directory}/cgroup.procs", int(pid))
        while not _removed(directory):
            os.sched_yield()


def _removed(directory: str) -> bool:
    """Remove a cgroup, unless the kernel is not yet through with the last process in it."""
    try:
        os.rmdir(directory)
    except OSError:
        return False
    return True


def _write(name: str, number: int) -> None:
    with open(name, "w", encoding="ascii") as file:
        file.write(str(number))


async def build_both(yard: "Yard", *drvs: StorePath) -> list[str]:
    """Build two derivations at once, and return how it went."""
    yard.told.clear()
    async with trio.open_nursery() as nursery:
        for drv in drvs:
            nursery.start_soon(yard.build, drv)
    shown = (BuildStarted, BuildSucceeded)
    return [type(event).__name__ for event in yard.told if isinstance(event, shown)]


@pytest.mark.slow
async def test_what_does_not_fit_beside_each_other_is_built_in_turn(
    narrow: str, open_yard: "OpenYard"
):
    """The first time nobody knows; the second time what they took is known."""
    admission = AdmissionSettings(spare_memory=200 * MIB)
    async with open_yard(max_jobs=2, admission=admission) as yard:
        script = eater(1.2, 120, 120)
        first = [await yard.add_derivation(script, each) for each in ("one", "other")]
        assert await build_both(yard, *first) == ["BuildStarted"] * 2 + ["BuildSucceeded"] * 2
        for drv in first:
            [attempt] = yard.history.of_derivation(drv)
            assert 230 * MIB < attempt.peak_memory < 330 * MIB
        script = eater(0.7, 120, 120)
        second = [await yard.add_derivation(script, each) for each in ("one", "other")]
        await build_both(yard, *second)
        begun = sorted(yard.history.of_derivation(drv)[0].started for drv in second)
        assert begun[1] - begun[0] >= 0.7
        waits = [event for event in yard.told if isinstance(event, GoalWaiting)]
        assert any(event.what == "memory" for event in waits)
    assert not [name for name in os.listdir(narrow) if name.startswith("storedaemon-")]


@pytest.mark.slow
async def test_a_build_over_its_limit_is_tried_again_alone(narrow: str, open_yard: "OpenYard"):
    """There it may have what the machine has; that its own shell lives on changes nothing."""
    async with open_yard(max_build_memory=100 * MIB) as yard:
        script = f"test $({EAT.format(180, 0.2)}) -gt 0; touch $out"
        drv = await yard.add_derivation(script, "large")
        await yard.build(drv, retries=THREE)
        second, first = yard.history.of_derivation(drv)
        assert (first.cause, first.quiet, first.beside) == (Cause.MEMORY, Quiet.USUAL, 0)
        assert (second.cause, second.quiet) == (Cause.SUCCESS, Quiet.ALONE)
        [retried] = [event for event in yard.told if isinstance(event, BuildRetried)]
        assert (retried.cause, retried.quiet) == ("memory", "alone")
    assert not [name for name in os.listdir(narrow) if name.startswith("storedaemon-")]


async def test_builders_are_ended_first(yard: "Yard"):
    """Their score is the highest there is, and their children's too."""
    drv = await yard.add_derivation(
        "read score < /proc/self/oom_score_adj; echo $score; touch $out"
    )
    await yard.build(drv)
    assert "1000" in yard.log()
