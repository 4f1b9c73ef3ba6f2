# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema that both daemons share, and how a daemon may come to use it.

The C++ daemon has never used another version than 7. A file beside the
database states the number; each daemon holds `big-lock` shared for as long as
it lives, so that whoever changes the schema one day can wait for all of them.
"""

import secrets
from pathlib import Path

import apsw

from store.errors import DatabaseError
from store.layout import Layout

VERSION = 7

_TABLES = """
create table if not exists ValidPaths (
    id integer primary key autoincrement not null,
    path text unique not null,
    hash text not null,
    registrationTime integer not null,
    deriver text,
    narSize integer
);
create table if not exists Refs (
    referrer integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);
create trigger if not exists DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
create table if not exists DerivationOutputs (
    drv integer not null,
    id text not null,
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
create table if not exists FailedPaths (
    path text primary key not null,
    time integer not null
);
"""


def stated_version(layout: Layout) -> int | None:
    """Read the number of the schema; None where no database was made yet.

    Raises:
        DatabaseError: The file holds something else than a number.
    """
    try:
        text = Path(layout.schema_file).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise DatabaseError(
            f"`{layout.schema_file}' is corrupt: it should hold {VERSION}, not {text[:20]!r}"
        ) from error


def check_version(layout: Layout) -> bool:
    """Tell whether a database of our version is there.

    Raises:
        DatabaseError: There is one of another version.
    """
    version = stated_version(layout)
    if version is None:
        return False
    if version != VERSION:
        raise DatabaseError(
            f"the store database in '{layout.database}' has schema version {version}, but only "
            f"version {VERSION} is supported; use the daemon that made it, or give a new store "
            "its own database directory",
            reason="schema-version",
        )
    return True


def create(connection: apsw.Connection, layout: Layout) -> None:
    """Make what is missing of the schema, then state its version.

    Whoever looks meanwhile sees all or nothing: the tables are made in one
    transaction, and the file is put into place by a rename.
    """
    connection.execute(f"begin immediate; {_TABLES} commit").fetchall()
    draft = Path(f"{layout.schema_file}.{secrets.token_hex(8)}")
    draft.write_text(str(VERSION), encoding="ascii")
    draft.replace(layout.schema_file)
