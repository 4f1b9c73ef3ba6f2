# SPDX-License-Identifier: GPL-3.0-or-later
"""What no root reaches: marking in one pass over the tables, and forgetting by the batch.

Liveness is one recursive query, which runs within SQLite and holds no
interpreter lock; what it does not reach is numbered in a temporary table, and
comes out as columns of numbers, a block at a time. Paths stay where they are
until a batch needs them. All of this is for threads.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import apsw

from store.database.connection import translated_errors
from store.paths import StorePath
from store.turns import json_list

_BLOCK = 4096

_LIVE = """
create temp table GcLive(id integer primary key);
insert into GcLive
with recursive reached(id) as (
    select id from ValidPaths where path in (select value from json_each(?))
    union
    select reference from Refs join reached on referrer = reached.id
    {more})
select id from reached"""
_KEEP_DERIVATIONS = """
    union
    select drv.id from reached
      join ValidPaths output on output.id = reached.id
      join ValidPaths drv on drv.path = output.deriver
      join DerivationOutputs d on d.drv = drv.id and d.path = output.path"""
_KEEP_OUTPUTS = """
    union
    select output.id from reached
      join DerivationOutputs d on d.drv = reached.id
      join ValidPaths output on output.path = d.path"""
_DEAD = """
create temp table GcDead(
    n integer primary key, id integer unique not null, time integer not null, size integer not null
);
insert into GcDead(n, id, time, size)
select row_number() over (order by v.id) - 1, v.id, {time}, ifnull(v.narSize, 0)
  from ValidPaths v {uses}
 where not exists (select 1 from GcLive where GcLive.id = v.id)"""
_ROWS = """
select group_concat(id), group_concat(time), group_concat(size)
  from (select id, time, size from GcDead where n >= ?1 and n < ?2 order by n)"""
_REFERENCES = """
select group_concat(f), group_concat(t) from (
    select a.n f, b.n t from GcDead a join Refs r on r.referrer = a.id
      join GcDead b on b.id = r.reference
     where a.n >= ?1 and a.n < ?2 and a.n <> b.n order by a.n)"""
_TO_DERIVATIONS = """
    select a.n f, b.n t from GcDead a join ValidPaths v on v.id = a.id
      join ValidPaths drv on drv.path = v.deriver
      join DerivationOutputs d on d.drv = drv.id and d.path = v.path
      join GcDead b on b.id = drv.id where a.n >= ?1 and a.n < ?2"""
_TO_OUTPUTS = """
    select a.n f, b.n t from GcDead a join DerivationOutputs d on d.drv = a.id
      join ValidPaths v on v.path = d.path
      join GcDead b on b.id = v.id where a.n >= ?1 and a.n < ?2"""
_KEPT = "select group_concat(f), group_concat(t) from ({parts} order by f)"
_TABLES = ("GcLive", "GcDead")
_LIVE_PATHS = """
select group_concat(path, char(10)) from ValidPaths where id in (select id from GcLive)"""
_PATHS = """
select group_concat(id), group_concat(path, char(10)) from ValidPaths
 where id in (select value from json_each(?))"""
_FORGET = "delete from ValidPaths where id = ?"
_FORGET_REFERENCES = "delete from Refs where referrer in (select value from json_each(?))"
_FORGET_ALL = "delete from ValidPaths where id in (select value from json_each(?))"


@dataclass(frozen=True, slots=True)
class Keeping:
    """What keeps an item besides a root that refers to it.

    Attributes:
        outputs: Whether a live derivation keeps its outputs.
        derivations: Whether a live item keeps the derivation that made it.
    """

    outputs: bool = False
    derivations: bool = True


@dataclass(frozen=True, slots=True)
class Edges:
    """Arrows between numbers from 0 on: those of N lead to ``targets[starts[N]:starts[N + 1]]``."""

    starts: "array[int]"
    targets: "array[int]"

    def of(self, number: int) -> "array[int]":
        """Return where the arrows of a number lead."""
        return self.targets[self.starts[number] : self.starts[number + 1]]


@dataclass(frozen=True, slots=True)
class Garbage:
    """Registered items that no root reaches, each by a number: its position in all columns.

    Attributes:
        ids: Of their rows in the database, ascending.
        times: When each was last used or registered, in seconds since the epoch.
        sizes: Of their archive forms.
        references: To others of them.
        kept: Derivations or outputs that each keeps, as was asked.
    """

    ids: "array[int]"
    times: "array[int]"
    sizes: "array[int]"
    references: Edges
    kept: Edges


@dataclass(slots=True)
class _Columns:
    """Edges that are being read; blocks come in the order of where they begin."""

    sources: "array[int]" = field(default_factory=lambda: array("q"))
    targets: "array[int]" = field(default_factory=lambda: array("q"))

    def edges(self, count: int) -> Edges:
        starts = array("q", bytes(8 * (count + 1)))
        for source in self.sources:
            starts[source + 1] += 1
        total = 0
        for number, own in enumerate(starts):
            total += own
            starts[number] = total
        return Edges(starts, self.targets)


def find_garbage(
    connection: apsw.Connection, roots: Iterable[str], keeping: Keeping, uses: str | None
) -> Garbage:
    """Return what no root reaches.

    Args:
        connection: Nobody else's meanwhile.
        roots: Paths; those that are not valid count for nothing.
        keeping: What else keeps items.
        uses: A database file that says when items were used last; None for none.
    """
    with _attached(connection, uses), _marked(connection, roots, keeping):
        _number_dead(connection, dated=uses is not None)
        return _read_garbage(connection, keeping)


def find_live(
    connection: apsw.Connection, roots: Iterable[str], keeping: Keeping
) -> frozenset[StorePath]:
    """Return every registered item that some root reaches; the arguments are `find_garbage`'s."""
    with _marked(connection, roots, keeping):
        [(joined,)] = connection.execute(_LIVE_PATHS).fetchall()
    return frozenset(map(StorePath, str(joined).split("\n"))) if joined else frozenset()


def paths_of(connection: apsw.Connection, ids: Sequence[int]) -> dict[int, StorePath]:
    """Return the paths of rows by their numbers; those that are gone are left out."""
    with translated_errors("cannot query the store database"):
        [(numbers, paths)] = connection.execute(_PATHS, (json_list(ids),)).fetchall()
    if not paths:
        return {}
    return dict(zip(_numbers(numbers), map(StorePath, str(paths).split("\n")), strict=True))


def forget(connection: apsw.Connection, ids: Sequence[int]) -> list[int]:
    """Make rows invalid in this order, within a transaction; return those that were not.

    An item that is referred to after all, such as by one that was registered a
    moment ago, stays, and so does what it refers to.
    """
    chosen = json_list(ids)
    connection.execute("savepoint together")
    try:
        # Together they cost a third of what they cost one by one; the references go first,
        # because looking for those of each row is what takes the time.
        connection.execute(_FORGET_REFERENCES, (chosen,))
        connection.execute(_FORGET_ALL, (chosen,))
        refused: list[int] = []
    except apsw.ConstraintError:
        connection.execute("rollback to together")
        refused = _forget_singly(connection, ids)
    connection.execute("release together")
    return refused


def _forget_singly(connection: apsw.Connection, ids: Iterable[int]) -> list[int]:
    refused: list[int] = []
    for identity in ids:
        try:
            connection.execute(_FORGET, (identity,))
        except apsw.ConstraintError:
            refused.append(identity)
    return refused


@contextmanager
def _marked(connection: apsw.Connection, roots: Iterable[str], keeping: Keeping) -> Iterator[None]:
    """Have what roots reach in a table; all is read from one state of the database."""
    more = (_KEEP_DERIVATIONS if keeping.derivations else "") + (
        _KEEP_OUTPUTS if keeping.outputs else ""
    )
    with translated_errors("cannot look for garbage in the store database"):
        _drop(connection)
        connection.execute("begin")
        try:
            connection.execute(_LIVE.format(more=more), (json_list(roots),)).fetchall()
            yield
        finally:
            with suppress(apsw.Error):
                connection.execute("rollback")
            _drop(connection)


def _drop(connection: apsw.Connection) -> None:
    for table in _TABLES:
        connection.execute(f"drop table if exists temp.{table}").fetchall()


@contextmanager
def _attached(connection: apsw.Connection, uses: str | None) -> Iterator[None]:
    """Have the file that knows last uses within reach."""
    if uses is None:
        yield
        return
    with translated_errors(f"cannot read `{uses}', which may be deleted"):
        connection.execute("attach ? as Uses", (uses,)).fetchall()
    try:
        yield
    finally:
        connection.execute("detach Uses").fetchall()


def _number_dead(connection: apsw.Connection, *, dated: bool) -> None:
    if dated:
        time = "max(v.registrationTime, ifnull(u.time, 0))"
        statement = _DEAD.format(time=time, uses="left join Uses.LastUses u on u.path = v.path")
    else:
        statement = _DEAD.format(time="v.registrationTime", uses="")
    connection.execute(statement).fetchall()


def _read_garbage(connection: apsw.Connection, keeping: Keeping) -> Garbage:
    [(count,)] = connection.execute("select count(*) from GcDead").fetchall()
    ids, times, sizes = array("q"), array("q"), array("q")
    references, kept = _Columns(), _Columns()
    for start in range(0, int(str(count)), _BLOCK):
        block = (start, start + _BLOCK)
        _extend(connection, _ROWS, block, ids, times, sizes)
        _extend(connection, _REFERENCES, block, references.sources, references.targets)
        for part in _kept_parts(keeping):
            _extend(connection, part, block, kept.sources, kept.targets)
    size = len(ids)
    return Garbage(ids, times, sizes, references.edges(size), kept.edges(size))


def _kept_parts(keeping: Keeping) -> list[str]:
    parts = [_TO_DERIVATIONS] * keeping.derivations + [_TO_OUTPUTS] * keeping.outputs
    return [_KEPT.format(parts=" union all ".join(parts))] if parts else []


def _extend(
    connection: apsw.Connection, statement: str, block: tuple[int, int], *columns: "array[int]"
) -> None:
    for values in connection.execute(statement, block):
        for column, joined in zip(columns, values, strict=True):
            if joined is not None:
                column.extend(_numbers(joined))


def _numbers(joined: object) -> Iterable[int]:
    return map(int, str(joined).split(","))
