# SPDX-License-Identifier: GPL-3.0-or-later
"""Through which references an item is reached; for threads. Entry point: `shortest_chains`."""

import json
from collections.abc import Iterable

import apsw

from store.database.connection import translated_errors
from store.database.garbage import Keeping
from store.database.reads import not_valid
from store.paths import StorePath

_IDS = """
select group_concat(id), group_concat(path, char(10)) from ValidPaths
 where path in (select value from json_each(?))"""
_PATHS = """
select group_concat(id), group_concat(path, char(10)) from ValidPaths
 where id in (select value from json_each(?))"""
_REFERRERS = """
select group_concat(reference), group_concat(referrer) from Refs
 where reference in (select value from json_each(?1)) and reference <> referrer"""
_DERIVATION_KEPT = """
select group_concat(drv.id), group_concat(output.id)
  from ValidPaths drv join DerivationOutputs d on d.drv = drv.id
  join ValidPaths output on output.path = d.path and output.deriver = drv.path
 where drv.id in (select value from json_each(?1))"""
_OUTPUT_KEPT = """
select group_concat(output.id), group_concat(d.drv)
  from ValidPaths output join DerivationOutputs d on d.path = output.path
 where output.id in (select value from json_each(?1))"""


def shortest_chains(
    connection: apsw.Connection, path: str, roots: Iterable[str], keeping: Keeping
) -> list[list[StorePath]]:
    """Return, for each root that keeps an item, a shortest way from the root's item to it.

    Raises:
        NotValidError: There is no such item.
    """
    with translated_errors("cannot query the store database"):
        connection.execute("begin")
        try:
            return _chains(connection, path, roots, keeping)
        finally:
            connection.execute("rollback")


def _chains(
    connection: apsw.Connection, path: str, roots: Iterable[str], keeping: Keeping
) -> list[list[StorePath]]:
    start = list(_named(connection, _IDS, [path]))
    if not start:
        raise not_valid(path)
    nearer = _walk_up(connection, start[0], keeping)
    ways: list[list[int]] = []
    for root in sorted(_named(connection, _IDS, sorted(set(roots)))):
        if root in nearer:
            way = [root]
            while way[-1] != start[0]:
                way.append(nearer[way[-1]])
            ways.append(way)
    names = _named(connection, _PATHS, sorted({number for way in ways for number in way}))
    return [[names[number] for number in way] for way in ways]


def _walk_up(connection: apsw.Connection, start: int, keeping: Keeping) -> dict[int, int]:
    """Return what reaches an item, each with the next on the way to it, breadth first."""
    statements = [_REFERRERS]
    statements += [_DERIVATION_KEPT] * keeping.derivations + [_OUTPUT_KEPT] * keeping.outputs
    nearer = {start: start}
    level = [start]
    while level:
        following: list[int] = []
        for statement in statements:
            for below, above in _pairs(connection, statement, level):
                if above not in nearer:
                    nearer[above] = below
                    following.append(above)
        level = following
    return nearer


def _pairs(
    connection: apsw.Connection, statement: str, level: list[int]
) -> Iterable[tuple[int, int]]:
    [(below, above)] = connection.execute(statement, (json.dumps(level),)).fetchall()
    if not below:
        return []
    return zip(_numbers(below), _numbers(above), strict=True)


def _named(
    connection: apsw.Connection, statement: str, values: Iterable[str | int]
) -> dict[int, StorePath]:
    [(ids, paths)] = connection.execute(statement, (json.dumps(list(values)),)).fetchall()
    if not ids:
        return {}
    return dict(zip(_numbers(ids), map(StorePath, str(paths).split("\n")), strict=True))


def _numbers(joined: object) -> Iterable[int]:
    return map(int, str(joined).split(","))
