# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own SQLite file beside the shared database, which the C++ daemon does not know.

It holds hints and records that builds can do without: each kind has a table of its
own, and is bounded. Entry points: `opened`, `connect`, `writing`.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import apsw
import trio

from store.database.connection import translated_errors
from store.errors import DatabaseError

_BUSY_MILLISECONDS = 10_000


def connect(path: str, schema: str) -> apsw.Connection:
    """Open the file, made where it is absent, with the tables and indexes that are needed.

    Args:
        path: `Layout.index_file`.
        schema: Statements that make what does not exist yet.

    Raises:
        DatabaseError: The file is damaged; it may be deleted.
    """
    with translated_errors(f"cannot open `{path}', which may be deleted"):
        connection = apsw.Connection(path)
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        # Losing hints in a crash of the machine is cheaper than waiting for the disk.
        for pragma in ("journal_mode = wal", "synchronous = off"):
            connection.execute(f"pragma {pragma}").fetchall()
        connection.execute(schema).fetchall()
    return connection


@asynccontextmanager
async def opened(path: str, schema: str) -> AsyncIterator[apsw.Connection]:
    """Have a connection as long as the context lasts; threads open and close it.

    Raises:
        DatabaseError: The file is damaged; it may be deleted.
    """
    connection = await trio.to_thread.run_sync(connect, path, schema)
    try:
        yield connection
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(connection.close)


@contextmanager
def writing(connection: apsw.Connection, name: str) -> Iterator[None]:
    """Make one transaction of what is read and written inside.

    It is a writer's from its beginning: one that has read first cannot wait for
    others, and fails as soon as one of them has written in between.

    Args:
        connection: From `connect`.
        name: What errors call it that is written.

    Raises:
        DatabaseError: It cannot be written, or others have kept it for too long.
    """
    try:
        with translated_errors(f"cannot write {name}"):
            connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")
    except apsw.BusyError as error:
        raise DatabaseError(f"{name} is in use by another process") from error
