# SPDX-License-Identifier: GPL-3.0-or-later
"""What builds leave behind is deleted, in whatever order that is heard of."""

import shutil
from pathlib import Path

import trio
import trio.testing

from builder.outputs.cleaning import Cleaner

LONGER = 0.01
"""Seconds in which nothing happens; the cleaner lets others go first for less."""


class SlowlyHeard:
    """Deletes trees at once, and lets the cleaner hear of it later."""

    def __init__(self) -> None:
        self.reports: list[trio.Event] = []

    async def __call__(self, path: str) -> None:
        """Delete a tree; return when the report is let through."""
        shutil.rmtree(path)
        report = trio.Event()
        self.reports.append(report)
        await report.wait()


async def test_a_place_may_be_taken_again_before_its_deletion_is_reported(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """The next tree of that name is waited for on its own, whichever report comes first."""
    delete = SlowlyHeard()
    cleaner = Cleaner(delete)
    await nursery.start(cleaner.run)
    path = tmp_path / "guix-build-x.drv-0"
    vacated: list[int] = []

    async def wait_for_it(number: int) -> None:
        await cleaner.vacate(str(path))
        vacated.append(number)

    for number in range(2):
        path.mkdir()
        cleaner.discard([str(path)])
        nursery.start_soon(wait_for_it, number)
        await trio.testing.wait_all_tasks_blocked(LONGER)
    assert vacated == []
    for number, report in enumerate(delete.reports):
        report.set()
        await trio.testing.wait_all_tasks_blocked(LONGER)
        assert vacated == list(range(number + 1))
    await cleaner.vacate(str(path))
