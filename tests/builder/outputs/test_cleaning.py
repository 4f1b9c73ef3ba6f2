# SPDX-License-Identifier: GPL-3.0-or-later
"""What builds leave behind is deleted, and is in nobody's way meanwhile."""

import shutil
from pathlib import Path

import trio
import trio.testing

from builder.outputs.cleaning import Cleaner

LONGER = 0.03
"""Seconds in which nothing happens; the cleaner lets others go first for less."""


class Slow:
    """Deletes trees when it is told to."""

    def __init__(self) -> None:
        self.go = trio.Event()

    async def __call__(self, path: str) -> None:
        """Delete a tree."""
        await self.go.wait()
        shutil.rmtree(path)


async def test_a_place_is_free_before_its_tree_is_deleted(nursery: trio.Nursery, tmp_path: Path):
    """Whoever takes it next, maybe another daemon, keeps what it puts there."""
    delete = Slow()
    cleaner = Cleaner(delete)
    await nursery.start(cleaner.run)
    path = tmp_path / "x.drv.chroot"
    for _ in range(2):
        path.mkdir()
        (path / "left").write_text("something")
        cleaner.discard([str(path)])
        await cleaner.vacate(str(path))
    path.mkdir()
    delete.go.set()
    await trio.testing.wait_all_tasks_blocked(LONGER)
    assert list(tmp_path.iterdir()) == [path]


async def test_what_holds_next_to_nothing_is_deleted_at_once(tmp_path: Path):
    """Nobody has to run for that, and nothing is left under another name."""
    private, top = tmp_path / "x.drv.chroot", tmp_path / "guix-build-x.drv-0"
    for directory in (private / "store" / "input", top / "top", top / "tmp"):
        directory.mkdir(parents=True)
    Cleaner(Slow()).discard([str(private), str(top)])
    assert list(tmp_path.iterdir()) == []


async def test_what_does_not_exist_is_no_error(nursery: trio.Nursery, tmp_path: Path):
    """A build may fail before it has made all of its directories."""
    cleaner = Cleaner(Slow())
    await nursery.start(cleaner.run)
    cleaner.discard([str(tmp_path / "never-made")])
    await trio.testing.wait_all_tasks_blocked(LONGER)
    assert list(tmp_path.iterdir()) == []
