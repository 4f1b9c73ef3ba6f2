# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in the store without being registered: left over from crashes, or being made.

Whoever makes something has it as a temporary root, or holds its lock. Entry
points: `stray_names`, `Strays`.
"""

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import trio

from store.collection.trash import LOCK_SUFFIX, NAME, Trash
from store.database import StoreDatabase

_BATCH = 1024
_LINKS = ".links"
# A build's private directory, beside the derivation.
_ACTIVE_SUFFIXES = (LOCK_SUFFIX, ".chroot")


async def stray_names(database: StoreDatabase, store: str) -> AsyncGenerator[list[str], None]:
    """Yield the names of entries of the store that were not registered a moment ago."""
    # Not closed here: a thread that was given up may still be in it.
    entries = _names(store)
    while names := await trio.to_thread.run_sync(_take, entries, abandon_on_cancel=True):
        valid = await database.valid_subset(f"{store}/{name}" for name in names)
        strays = [name for name in names if f"{store}/{name}" not in valid]
        if strays:
            yield strays


def _names(store: str) -> Iterator[str]:
    with os.scandir(store) as entries:
        for entry in entries:
            if entry.name not in (_LINKS, NAME):
                yield entry.name


def _take(names: Iterator[str]) -> list[str]:
    return list(islice(names, _BATCH))


class Strays:
    """Tells garbage from what is being made.

    Args:
        store: The store directory.
        database: Says what is registered by now.
        trash: Knows who holds locks.
        kept: Roots of all kinds; of other processes, they are all there are.
        needed: Gives what this process needs at the moment.
    """

    def __init__(
        self,
        store: str,
        database: StoreDatabase,
        trash: Trash,
        kept: frozenset[str],
        needed: Callable[[], Iterable[str]],
    ) -> None:
        self._store = store
        self._database = database
        self._trash = trash
        self._kept = kept
        self._needed = needed

    async def unlocked(self, names: Iterable[str]) -> list[str]:
        """Return the names whose locks nobody holds."""
        return await trio.to_thread.run_sync(partial(self._unlocked, list(names)))

    def dead(self, names: Iterable[str]) -> list[str]:
        """Return the names that nobody needs at this moment; for the event loop."""
        needed = self._kept.union(self._needed())
        return [name for name in names if self._is_dead(f"{self._store}/{name}", needed)]

    def live(self, names: Iterable[str]) -> list[str]:
        """Return the names that are roots themselves; private directories are nobody's item."""
        needed = self._kept.union(self._needed())
        items = (name for name in names if not name.startswith("."))
        return [name for name in items if f"{self._store}/{name}" in needed]

    def _is_dead(self, path: str, needed: frozenset[str]) -> bool:
        stems = (path.removesuffix(each) for each in _ACTIVE_SUFFIXES if path.endswith(each))
        if path in needed or any(stem in needed for stem in stems):
            return False
        return not self._database.is_valid(path)

    def _unlocked(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self._trash.is_locked(_item(name))]


def _item(name: str) -> str:
    return name.removesuffix(LOCK_SUFFIX)
