# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of last uses, and what is not."""

from contextlib import closing

import apsw

from store.last_uses import LastUses
from store.layout import Layout
from store.paths import StorePath

MOST = 65_536


async def test_the_oldest_of_too_many_are_lost(layout: Layout):
    """What is not written yet is bounded; the losses are counted."""
    paths = [StorePath(f"{layout.store}/{number}") for number in range(MOST + 100_000)]
    async with LastUses.open(layout) as uses:
        uses.record(paths[:10])
        uses.record(paths)
        found = uses.statistics()
        assert (found.entries, found.evictions) == (MOST, 100_000)
        await uses.flush()
        with closing(apsw.Connection(uses.file)) as connection:
            written = {path for (path,) in connection.execute("select path from LastUses")}
    assert written == set(paths[-MOST:])
