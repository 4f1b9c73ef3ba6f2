# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of detached builds, on disk, so that the next daemon can go on with them.

Kept is who wants what and with which settings, not how far it got.
Entry points: `DetachedRecord`, `Wanted`.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import apsw
import structlog
import trio

from builder.options import BuildMode
from store.errors import DatabaseError
from store.layout import Layout
from store.side_file import opened, writing
from storedaemon.session_options import SessionOptions

_TABLE = """
create table if not exists DetachedBuilds (
    number integer primary key,
    uid integer not null, gid integer not null,
    trusted integer not null, since real not null,
    mode integer not null, targets text not null, options text not null
)"""
_ADD = "insert or replace into DetachedBuilds values (?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "delete from DetachedBuilds where number = ?"
_ALL = "select * from DetachedBuilds order by number"

log = structlog.get_logger("detached")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One detached build.

    Attributes:
        number: By which it is known.
        uid: Whose it is.
        gid: The owner's group.
        trusted: Whether the owner was trusted then, which the options may rest on.
        since: When it was asked for, in seconds since 1970.
        mode: What is to be done.
        targets: With what.
        options: What its owner has set.
    """

    number: int
    uid: int
    gid: int
    trusted: bool
    since: float
    mode: BuildMode
    targets: tuple[str, ...]
    options: SessionOptions


class DetachedRecord:
    """The record; make one with `open`. What cannot be written is only said in the log."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._lock = trio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: Layout) -> AsyncIterator["DetachedRecord"]:
        """Open the record, made where it is absent, for as long as the context lasts.

        Raises:
            DatabaseError: The file is damaged; it may be deleted.
        """
        async with opened(layout.index_file, _TABLE) as connection:
            yield cls(connection)

    async def add(self, wanted: Wanted) -> None:
        """Remember a build; written when this returns, whoever is cancelled."""
        await self._change(_ADD, _row(wanted))

    async def remove(self, number: int) -> None:
        """Forget a build; likewise."""
        await self._change(_REMOVE, (number,))

    async def all(self) -> list[Wanted]:
        """Return what there is, the oldest first; what makes no sense is left out."""
        async with self._lock:
            rows = await trio.to_thread.run_sync(self._read)
        return [wanted for row in rows if (wanted := _wanted(row)) is not None]

    async def _change(self, statement: str, bindings: tuple[Any, ...]) -> None:
        with trio.CancelScope(shield=True):
            async with self._lock:
                try:
                    await trio.to_thread.run_sync(partial(self._write, statement, bindings))
                except DatabaseError as error:
                    log.warning("detached_builds_not_recorded", reason=error.message)

    def _write(self, statement: str, bindings: tuple[Any, ...]) -> None:
        with writing(self._connection, "the record of detached builds"):
            self._connection.execute(statement, bindings)

    def _read(self) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(_ALL).fetchall()
        except apsw.Error as error:
            log.warning("detached_builds_not_read", reason=str(error))
            return []


def _row(wanted: Wanted) -> tuple[Any, ...]:
    return (
        wanted.number,
        wanted.uid,
        wanted.gid,
        wanted.trusted,
        wanted.since,
        wanted.mode.value,
        json.dumps(wanted.targets),
        json.dumps(asdict(wanted.options)),
    )


def _wanted(row: tuple[Any, ...]) -> Wanted | None:
    number, uid, gid, trusted, since, mode, targets, options = row
    try:
        return Wanted(
            number,
            uid,
            gid,
            bool(trusted),
            since,
            BuildMode(mode),
            tuple(map(str, json.loads(targets))),
            SessionOptions(**json.loads(options)),
        )
    except (TypeError, ValueError) as error:
        # Another version of this daemon has written it.
        log.warning("detached_build_not_understood", number=number, reason=str(error))
        return None
