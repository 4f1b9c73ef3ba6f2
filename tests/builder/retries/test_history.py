# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of attempts: written late, found at once, and never in anybody's way."""

import os
from pathlib import Path

import pytest

from builder.retries.history import History
from builder.retries.policy import Cause, Quiet
from builder.retries.records import Attempt
from store.errors import DatabaseError
from store.layout import Layout
from store.paths import StorePath

DRV = StorePath("/gnu/store/" + "a" * 32 + "-demo.drv")
OTHER = StorePath("/gnu/store/" + "b" * 32 + "-demo.drv")

FAILED = Attempt(
    DRV, "demo.drv", 1, 1000.5, 2.25, Cause.EXIT, "failed with exit code 1", beside=3, cores=4
)
PASSED = FAILED._replace(number=2, cause=Cause.SUCCESS, detail="", quiet=Quiet.HALF, started=1010)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A layout with a database directory."""
    made = Layout.under(f"{tmp_path}/store", f"{tmp_path}/state")
    os.makedirs(made.database)
    return made


async def test_what_was_recorded_is_found_before_it_is_written(layout: Layout):
    """The latest first, by derivation and by name."""
    async with History.open(layout) as history:
        history.record(FAILED)
        history.record(PASSED)
        assert history.of_derivation(DRV) == [PASSED, FAILED]
        assert history.of_name("demo.drv") == [PASSED, FAILED]
        assert history.of_derivation(OTHER) == []


async def test_it_outlives_the_daemon(layout: Layout):
    """Every field as it was."""
    async with History.open(layout) as history:
        history.record(FAILED)
        history.record(PASSED)
    async with History.open(layout) as history:
        assert history.of_derivation(DRV) == [PASSED, FAILED]
        history.record(FAILED._replace(drv=OTHER))
        assert [each.drv for each in history.of_name("demo.drv")] == [OTHER, DRV, DRV]
        assert len(history.of_name("demo.drv", most=2)) == 2


async def test_what_needed_quiet_is_known_at_once(layout: Layout):
    """What the last build of a name passed with counts, also for the next daemon."""
    async with History.open(layout) as history:
        assert history.quiet_of_name("demo.drv") is Quiet.USUAL
        history.record(FAILED)
        assert history.quiet_of_name("demo.drv") is Quiet.USUAL
        history.record(PASSED)
        assert history.quiet_of_name("demo.drv") is Quiet.HALF
    async with History.open(layout) as history:
        assert history.quiet_of_name("demo.drv") is Quiet.HALF
        history.record(PASSED._replace(quiet=Quiet.USUAL))
        assert history.quiet_of_name("demo.drv") is Quiet.USUAL


async def test_what_the_latest_of_a_name_needed_counts(layout: Layout):
    """The most, whether it is written yet or not; nothing where the name is new."""
    async with History.open(layout) as history:
        assert history.peak_of_name("demo.drv") == 0
        history.record(FAILED._replace(peak_memory=9))
        history.record(PASSED._replace(peak_memory=5))
        assert history.peak_of_name("demo.drv") == 9
        await history.flush()
        assert history.peak_of_name("demo.drv") == 9
        for _ in range(8):
            history.record(PASSED._replace(peak_memory=6))
        await history.flush()
        assert history.peak_of_name("demo.drv") == 6


async def test_what_passed_after_a_failure_is_flaky(layout: Layout):
    """With what it needed the last time; what never passed, or at once, is not."""
    async with History.open(layout) as history:
        for each in (FAILED, PASSED, FAILED._replace(drv=OTHER, name="broken.drv")):
            history.record(each)
        history.record(PASSED._replace(name="solid.drv", number=1, quiet=Quiet.USUAL))
        [flaky] = await history.flaky()
        assert (flaky.name, flaky.failures, flaky.passes) == ("demo.drv", 1, 1)
        assert (flaky.quiet, flaky.last) == (Quiet.HALF, 1010)


async def test_a_damaged_file_is_named(layout: Layout):
    """It may be deleted."""
    Path(layout.index_file).write_bytes(b"no database" * 1000)
    with pytest.raises(DatabaseError, match="which may be deleted"):
        async with History.open(layout):
            pass
