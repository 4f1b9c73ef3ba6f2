# SPDX-License-Identifier: GPL-3.0-or-later
"""What the next daemon is told of detached builds."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from builder.options import BuildMode
from store.layout import Layout
from storedaemon.detached_record import DetachedRecord, Wanted
from storedaemon.session_options import SessionOptions

OPTIONS = SessionOptions(cores=3, keep_log=False, settings={"untrusted-x": "\udc80"})
WANTED = Wanted(7, 1000, 100, True, 1.5, BuildMode.CHECK, ("/gnu/store/x.drv!out",), OPTIONS)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A place for the file."""
    made = Layout.under(str(tmp_path / "store"), str(tmp_path / "state"))
    Path(made.database).mkdir(parents=True)
    return made


async def test_what_was_added_and_not_removed_is_there(layout: Layout):
    """As it was, whatever bytes were in it."""
    async with DetachedRecord.open(layout) as record:
        await record.add(WANTED)
        await record.add(replace(WANTED, number=8))
        await record.remove(7)
    async with DetachedRecord.open(layout) as record:
        assert await record.all() == [replace(WANTED, number=8)]


async def test_what_another_version_has_written_is_left_out(layout: Layout):
    """The others are still there."""
    async with DetachedRecord.open(layout) as record:
        for number in (1, 2, 3):
            await record.add(replace(WANTED, number=number))
        with closing(apsw.Connection(layout.index_file)) as other:
            other.execute(
                "update DetachedBuilds set options = '{\"unheard-of\": 1}' where number = 1"
            )
            other.execute("update DetachedBuilds set mode = 9 where number = 2")
        assert [wanted.number for wanted in await record.all()] == [3]
