# SPDX-License-Identifier: GPL-3.0-or-later
"""What sessions of our own come to need while garbage is being deleted.

Other daemons wait until a collection is over before they take new temporary
roots. Ours does not: a session that names an item which has not gone yet keeps
it, with all that it refers to; one that names an item which is just going waits
for some milliseconds, and finds it gone. Entry point: `Sparing`.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import trio

from store.database import StoreDatabase
from store.database.garbage import Edges, Garbage

_DEAD, _SPARED, _GONE = range(3)
_EMPTY = Edges(array("q", [0]), array("q"))
_NOTHING = Garbage(array("q"), array("q"), array("q"), _EMPTY, _EMPTY)


class Sparing:
    """What becomes of each item of the garbage; for the event loop.

    Args:
        database: Says which row a path has.
    """

    def __init__(self, database: StoreDatabase) -> None:
        self._database = database
        self._garbage = _NOTHING
        self._noted: set[str] = set()
        self._begun = False
        self._states = bytearray()
        self._going: frozenset[str] = frozenset()
        self._over = trio.Event()

    def begin(self, garbage: Garbage) -> None:
        """Have garbage, and spare of it what was needed since the roots were looked for."""
        self._garbage = garbage
        self._states = bytearray(len(garbage.ids))
        self._begun = True
        for path in self._noted:
            self._spare(path)
        self._noted.clear()

    def is_dead(self, number: int) -> bool:
        """Tell whether an item of the garbage is there, and nobody needs it."""
        return self._states[number] == _DEAD

    def number_of(self, path: str) -> int | None:
        """Return which item of the garbage has a path; None where it has none, or is gone."""
        row = self._database.row_of(path)
        if row is None:
            return None
        number = bisect_left(self._garbage.ids, row)
        found = number < len(self._garbage.ids) and self._garbage.ids[number] == row
        return number if found else None

    def going(self, paths: Iterable[str], numbers: Sequence[int] = ()) -> None:
        """Begin to delete items: whoever needs one has to wait now."""
        self._going = frozenset(paths)
        self._over = trio.Event()
        for number in numbers:
            self._states[number] = _GONE

    def gone(self) -> None:
        """Let those who waited see that the items are gone."""
        self._going = frozenset()
        self._over.set()

    async def spare(self, paths: Iterable[str]) -> None:
        """Keep items that somebody needs, with what they refer to; wait for those that go.

        No checkpoint, unless it has to wait.
        """
        wanted = list(paths)
        if self._begun:
            for path in wanted:
                self._spare(path)
        else:
            self._noted.update(wanted)
        while not self._going.isdisjoint(wanted):
            await self._over.wait()

    def _spare(self, path: str) -> None:
        number = self.number_of(path) if path not in self._going else None
        pending = [] if number is None else [number]
        while pending:
            item = pending.pop()
            if self._states[item] == _DEAD:
                self._states[item] = _SPARED
                pending += self._garbage.references.of(item)
                pending += self._garbage.kept.of(item)
