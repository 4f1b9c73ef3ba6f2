# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to the store's SQLite file, all set up alike.

Checkpoints are never made by a connection itself: they sync files, and some
connections live on the event loop (`store.database.checkpoints`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

from store.errors import DatabaseError

# Reading a mapped file saves a system call a page; what lies beyond is read the usual way.
_MAPPED_BYTES = 1 << 30
_STATEMENTS = 64
# A reader of a WAL database is only ever refused while another process recovers it from
# a crash, which takes milliseconds.
_READ_ATTEMPTS = 2000


def open_connection(path: str, *, create: bool = False) -> apsw.Connection:
    """Open the database as the C++ daemon does: WAL, foreign keys, no sync on commit.

    Raises:
        DatabaseError: The file is absent, or no database.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
    if create:
        flags |= apsw.SQLITE_OPEN_CREATE
    with translated_errors(f"cannot open store database `{path}'"):
        connection = apsw.Connection(path, flags=flags, statementcachesize=_STATEMENTS)
        # Creating the WAL file may meet another process that does the same.
        connection.set_busy_timeout(60_000)
        for pragma in (
            "foreign_keys = 1",
            "synchronous = normal",
            "journal_mode = wal",
            "wal_autocheckpoint = 0",
            f"mmap_size = {_MAPPED_BYTES}",
        ):
            connection.execute(f"pragma {pragma}").fetchall()
        connection.set_busy_timeout(0)
    return connection


def patient_reads(connection: apsw.Connection, writing: Callable[[], bool]) -> None:
    """Let reads outlast a recovery by another process; a write is refused at once."""

    def busy(attempts: int) -> bool:
        if writing() or attempts >= _READ_ATTEMPTS:
            return False
        time.sleep(0.001)
        return True

    connection.set_busy_handler(busy)


def begin_log(connection: apsw.Connection) -> None:
    """Make a commit that changes nothing; for a thread.

    The first commit to a write-ahead log, new or started over, syncs its header.

    Raises:
        apsw.BusyError: Another process is writing.
    """
    version = connection.pragma("user_version")
    connection.execute(f"begin immediate; pragma user_version = {version}; commit").fetchall()


@contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """Turn SQLite's errors, but for contention, into `DatabaseError`."""
    try:
        yield
    except apsw.BusyError:
        raise
    except apsw.Error as error:
        raise DatabaseError(f"{doing}: {error}") from error
