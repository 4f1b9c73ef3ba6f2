# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of kept build directories: of which derivation, where, and whose.

A directory may have been moved, deleted or replaced since by whoever it belongs to: who
opens it looks at what it is now. The record lies in our own SQLite file beside the shared
database, and is bounded. It is opened anew each time: builds are seldom kept, and seldom
entered. Entry points: `record_kept`, `kept_of`.
"""

from contextlib import closing
from dataclasses import astuple, dataclass, fields
from typing import Any

from store.database.connection import translated_errors
from store.paths import StorePath
from store.side_file import connect, writing

_TABLE = """
create table if not exists KeptBuilds (
    sequence integer primary key autoincrement, drv text not null, path text not null unique,
    uid integer not null, gid integer not null, holder integer not null
);
create index if not exists KeptBuildsByDrv on KeptBuilds (drv);
"""
_OF_DRV = "select drv, path, uid, gid, holder from KeptBuilds where drv = ? order by sequence desc"
_PRUNE = "delete from KeptBuilds where sequence <= (select max(sequence) - ? from KeptBuilds)"

MOST_KEPT = 10_000
"""Directories that are remembered; the oldest are forgotten first."""

UNKNOWN = -1
"""The user and the group of a client of whom nothing is known."""


@dataclass(frozen=True, slots=True)
class KeptBuild:
    """A build directory that was kept.

    Attributes:
        drv: The derivation whose build failed.
        path: Where it is.
        uid: For whom it was built; `UNKNOWN` where nobody knows.
        gid: That user's group.
        holder: The user who has it: that one, unless it could not be given away.
    """

    drv: StorePath
    path: str
    uid: int
    gid: int
    holder: int

    @property
    def recipient(self) -> tuple[int, int] | None:
        """Whom the directory is for: never root, whose files nobody asks to be given."""
        return (self.uid, self.gid) if self.uid > 0 and self.gid > 0 else None

    @property
    def owners(self) -> frozenset[int]:
        """Whose the files in it may be; what root has in another user's tree was brought there."""
        owners = frozenset((self.uid, self.holder))
        return owners - {0} if self.recipient else owners


_COLUMNS = ", ".join(each.name for each in fields(KeptBuild))


def record_kept(file: str, kept: KeptBuild) -> None:
    """Remember a directory, instead of what was in its place before.

    Args:
        file: `Layout.index_file`.
        kept: The directory.

    Raises:
        DatabaseError: The record cannot be written.
    """
    with closing(connect(file, _TABLE)) as connection, writing(connection, "the kept builds"):
        statement = f"replace into KeptBuilds ({_COLUMNS}) values (?, ?, ?, ?, ?)"  # noqa: S608 - names of fields
        connection.execute(statement, astuple(kept))
        connection.execute(_PRUNE, (MOST_KEPT,))


def kept_of(file: str, drv: StorePath) -> list[KeptBuild]:
    """Return the directories kept of a derivation, the latest first.

    Raises:
        DatabaseError: The record cannot be read.
    """
    with closing(connect(file, _TABLE)) as connection, translated_errors("cannot read kept builds"):
        rows = connection.execute(_OF_DRV, (drv,)).fetchall()
    return [_kept(row) for row in rows]


def _kept(row: tuple[Any, ...]) -> KeptBuild:
    drv, path, uid, gid, holder = row
    return KeptBuild(StorePath(drv), path, uid, gid, holder)
