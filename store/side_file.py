# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own SQLite file beside the shared database, which the C++ daemon does not know.

It holds hints and records that builds can do without: each kind has a table of its
own, and is bounded. Entry point: `connect`.
"""

import apsw

from store.database.connection import translated_errors

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
