# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing the database with what is on disk: are all registered items there?

What is gone is forgotten, unless something that is there refers to it. No other
process is kept waiting meanwhile. That is safe because of the order in which
all daemons do things: an item is on disk before it is registered, so a list of
registered items is older than the directory it is compared with; and it is
forgotten before it is deleted, so what is found gone, and is registered still,
was deleted by no collector. Only builders that repair take something away for
a moment, and they hold the item's lock. Entry point: `check_existence`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import trio

from locker.pathlocks import PathLocks
from store.database import StoreDatabase
from store.errors import StoreError
from store.paths import StoreDirectory, StorePath


class Fate(Enum):
    """What became of a registered item that is not on disk."""

    FORGOTTEN = "forgotten"
    STILL_REFERRED_TO = "still-referred-to"
    NOT_IN_STORE = "not-in-store"


@dataclass(frozen=True, slots=True)
class Lost:
    """A registered item that is not on disk; one that is not in the store is forgotten as well."""

    path: StorePath
    fate: Fate


@dataclass(frozen=True, slots=True)
class Existence:
    """What is there, sorted, and what is not, each item after those that refer to it."""

    present: tuple[StorePath, ...]
    lost: tuple[Lost, ...]


async def check_existence(
    database: StoreDatabase, directory: StoreDirectory, locks: PathLocks
) -> Existence:
    """Forget registered items that are gone, as far as nothing refers to them.

    Waits for whoever holds the lock of an item that seems to be gone.

    Raises:
        OSError: The store cannot be listed.
    """
    registered = await database.all_valid_paths()
    present, absent = await trio.to_thread.run_sync(_compare, registered, directory.path)
    referrers = await database.referrers_among(absent) if absent else {}
    lost = []
    for path in referrers_first(absent, referrers):
        fate = await _settle(path, database, directory, locks)
        if fate is not None:
            lost.append(Lost(path, fate))
    return Existence(tuple(present), tuple(lost))


def referrers_first(
    paths: Iterable[StorePath], referrers: Mapping[StorePath, Iterable[StorePath]]
) -> list[StorePath]:
    """Sort paths such that what refers to one comes before it; a circle is cut somewhere."""
    ordered: list[StorePath] = []
    seen: set[StorePath] = set()
    for start in sorted(paths):
        stack = _unseen([start], referrers, seen)
        while stack:
            path, rest = stack[-1]
            deeper = _unseen(rest, referrers, seen)
            stack += deeper
            if not deeper:
                ordered.append(path)
                stack.pop()
    return ordered


def _unseen(
    paths: Iterable[StorePath],
    referrers: Mapping[StorePath, Iterable[StorePath]],
    seen: set[StorePath],
) -> list[tuple[StorePath, Iterator[StorePath]]]:
    """Take paths up to the first that was not seen; give it, and what refers to it."""
    for path in paths:
        if path not in seen:
            seen.add(path)
            return [(path, iter(referrers.get(path, ())))]
    return []


def _compare(
    registered: Iterable[StorePath], store: str
) -> tuple[list[StorePath], list[StorePath]]:
    """Tell what is in the store's directory, sorted, from what is not."""
    there = {f"{store}/{name}" for name in os.listdir(store)}
    present: list[StorePath] = []
    absent: list[StorePath] = []
    for path in sorted(registered):
        (present if path in there else absent).append(path)
    return present, absent


async def _settle(
    path: StorePath, database: StoreDatabase, directory: StoreDirectory, locks: PathLocks
) -> Fate | None:
    """Forget a registered item that seems to be gone; None where it is not, after all."""
    if not directory.names_entry(path):
        return await _forget(path, database, Fate.NOT_IN_STORE)
    if not directory.is_store_path(path):
        # Nothing else adds or deletes what has such a name, so nobody locks it.
        return await _forget(path, database, Fate.FORGOTTEN)
    async with locks.hold([path]) as held:
        held.delete_on_release()
        if _is_there(path) or not database.is_valid(path):
            return None
        return await _forget(path, database, Fate.FORGOTTEN)


async def _forget(path: StorePath, database: StoreDatabase, fate: Fate) -> Fate:
    try:
        await database.invalidate(path)
    except StoreError as error:
        if error.reason == "in-use":
            return Fate.STILL_REFERRED_TO
        raise
    return fate


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True
