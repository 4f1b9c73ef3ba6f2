# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about whole closures and the whole store, for threads.

Each takes a connection that no other thread uses. The paths of an answer are
joined within SQLite, which holds no interpreter lock, rather than fetched row
by row, which would.
"""

from collections.abc import Iterable
from typing import cast

import apsw

from store.database.connection import translated_errors
from store.database.reads import not_valid
from store.paths import StorePath
from store.turns import json_list

_ALL_VALID = "select group_concat(path, char(10)) from ValidPaths"
_ALL_FAILED = "select group_concat(path, char(10)) from FailedPaths"
_SUBSET = """
select group_concat(path, char(10)) from ValidPaths
 where path in (select value from json_each(?))"""
_CLOSURE = """
with recursive reached(id) as (
    select id from ValidPaths where path in (select value from json_each(?))
    union
    select reference from Refs join reached on referrer = reached.id)
select group_concat(path, char(10)) from ValidPaths where id in reached"""
_REFERRERS = """
with chosen(path) as (select value from json_each(?))
select reference.path, group_concat(referrer.path, char(10))
  from ValidPaths reference
  join Refs r on r.reference = reference.id
  join ValidPaths referrer on referrer.id = r.referrer
 where reference.path in chosen and referrer.path in chosen and r.referrer <> r.reference
 group by r.reference"""

_HASHES_AFTER = "select id, path, hash from ValidPaths where id > ? order by id limit ?"


def all_valid_paths(connection: apsw.Connection) -> frozenset[StorePath]:
    """Return every registered item."""
    return _paths(connection, _ALL_VALID)


def failed_paths(connection: apsw.Connection) -> frozenset[StorePath]:
    """Return every output remembered as failed."""
    return _paths(connection, _ALL_FAILED)


def valid_subset(connection: apsw.Connection, paths: Iterable[str]) -> frozenset[StorePath]:
    """Return those of many paths that are valid."""
    return _paths(connection, _SUBSET, json_list(paths))


def closure(connection: apsw.Connection, paths: Iterable[str]) -> frozenset[StorePath]:
    """Return items and all that they refer to, however remotely.

    Raises:
        NotValidError: One of the items given is not valid.
    """
    wanted = set(paths)
    reached = _paths(connection, _CLOSURE, json_list(wanted))
    if not wanted <= reached:
        raise not_valid(min(wanted - reached))
    return reached


def referrers_among(
    connection: apsw.Connection, paths: Iterable[str]
) -> dict[StorePath, list[StorePath]]:
    """Return which of some items refer to which others, by the latter."""
    with translated_errors("cannot query the store database"):
        rows = connection.execute(_REFERRERS, (json_list(paths),)).fetchall()
    return {
        StorePath(str(path)): list(map(StorePath, str(joined).split("\n"))) for path, joined in rows
    }


def hashes_after(connection: apsw.Connection, row: int, limit: int) -> list[tuple[int, str, str]]:
    """Return row number, path and hash text of the items with the next higher row numbers."""
    with translated_errors("cannot query the store database"):
        rows = connection.execute(_HASHES_AFTER, (row, limit)).fetchall()
    return cast("list[tuple[int, str, str]]", rows)


def _paths(connection: apsw.Connection, statement: str, *bindings: str) -> frozenset[StorePath]:
    with translated_errors("cannot query the store database"):
        [(joined,)] = connection.execute(statement, bindings).fetchall()
    return frozenset(map(StorePath, str(joined).split("\n"))) if joined else frozenset()
