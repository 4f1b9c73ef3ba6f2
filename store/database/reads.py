# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about one item, each an indexed look-up of a few microseconds.

They may run on the event loop: a reader of a WAL database waits for nobody.
Whatever has the size of a closure or of the store is in `store.database.bulk`.
"""

from collections.abc import Iterable
from typing import Any, cast

import apsw

from store.errors import DatabaseError, InvalidHashError, InvalidPathError, NotValidError
from store.hashes import Digest
from store.info import PathInfo
from store.layout import Layout
from store.paths import HASH_PART_LENGTH, StorePath

_ID = "select id from ValidPaths where path = ?"
_IS_VALID = "select 1 from ValidPaths where path = ?"
# One statement is one snapshot: the item and its references cannot come from different times.
_INFO = """
select hash, registrationTime, deriver, narSize,
       (select group_concat(r.path, char(10))
          from Refs join ValidPaths r on r.id = reference where referrer = v.id)
  from ValidPaths v where path = ?"""
_REFERENCES = """
select (select group_concat(r.path, char(10))
          from Refs join ValidPaths r on r.id = reference where referrer = v.id)
  from ValidPaths v where path = ?"""
_REFERRERS = """
select path from Refs join ValidPaths on id = referrer
 where reference = (select id from ValidPaths where path = ?) order by path"""
_VALID_DERIVERS = """
select v.path from DerivationOutputs d join ValidPaths v on v.id = d.drv
 where d.path = ? order by v.path"""
_DERIVER = "select deriver from ValidPaths where path = ?"
_OUTPUTS = """
select o.id, o.path from ValidPaths v left join DerivationOutputs o on o.drv = v.id
 where v.path = ?"""
_FROM_HASH_PART = "select path from ValidPaths where path >= ? order by path limit 1"
_HAS_FAILED = "select 1 from FailedPaths where path = ?"


class DatabaseReads:
    """Look-ups through one connection.

    Args:
        connection: Used by one thread at a time.
        layout: Of the store whose items these are.
    """

    def __init__(self, connection: apsw.Connection, layout: Layout) -> None:
        self._prefix = f"{layout.store}/"
        # One cursor saves making one for each question; each is done with before the next.
        self._find = connection.cursor().execute

    def is_valid(self, path: str) -> bool:
        """Tell whether an item of that path is registered."""
        try:
            return self._find(_IS_VALID, (path,)).get is not None
        except apsw.Error as error:
            raise DatabaseError(f"cannot look up `{path}': {error}") from error

    def row_of(self, path: str) -> int | None:
        """Return the number of an item's row, which no other item ever gets."""
        rows = self._rows(_ID, path)
        return rows[0][0] if rows else None

    def path_info(self, path: str) -> PathInfo:
        """Return what is registered of an item.

        Raises:
            NotValidError: There is no such item.
            DatabaseError: Its row does not make sense.
        """
        row = self._only_row(_INFO, path)
        hash_text, time, deriver, size, references = row
        return PathInfo(
            path=StorePath(path),
            nar_hash=_parse_hash(path, hash_text),
            nar_size=size or 0,
            references=frozenset(_split(references)),
            deriver=deriver or None,
            registration_time=time,
        )

    def references(self, path: str) -> list[StorePath]:
        """Return the items that one refers to, sorted; it may be among them.

        Raises:
            NotValidError: There is no such item.
        """
        return sorted(_split(self._only_row(_REFERENCES, path)[0]))

    def referrers(self, path: str) -> list[StorePath]:
        """Return the items that refer to a path, sorted; none for a path that is not valid."""
        return [row[0] for row in self._rows(_REFERRERS, path)]

    def valid_derivers(self, path: str) -> list[StorePath]:
        """Return the registered derivations that have this output, sorted."""
        return [row[0] for row in self._rows(_VALID_DERIVERS, path)]

    def deriver(self, path: str) -> StorePath | None:
        """Return the derivation that made an item, where that is known.

        Raises:
            NotValidError: There is no such item.
        """
        return self._only_row(_DERIVER, path)[0] or None

    def derivation_outputs(self, path: str) -> list[StorePath]:
        """Return the paths of a derivation's outputs, sorted; none for other items.

        Raises:
            NotValidError: There is no such item.
        """
        return sorted(self.outputs_by_name(path).values())

    def derivation_output_names(self, path: str) -> list[str]:
        """Return the names of a derivation's outputs, sorted; none for other items.

        Raises:
            NotValidError: There is no such item.
        """
        return sorted(self.outputs_by_name(path))

    def outputs_by_name(self, path: str) -> dict[str, StorePath]:
        """Return a derivation's outputs by name; none for other items.

        Raises:
            NotValidError: There is no such item.
        """
        rows = self._rows(_OUTPUTS, path)
        if not rows:
            raise not_valid(path)
        return {name: output for name, output in rows if name is not None}

    def path_from_hash_part(self, hash_part: str) -> StorePath | None:
        """Return the item whose path has that hash part.

        Raises:
            InvalidPathError: The text has not the length of a hash part.
        """
        if len(hash_part) != HASH_PART_LENGTH:
            raise InvalidPathError("invalid hash part")
        prefix = self._prefix + hash_part
        rows = self._rows(_FROM_HASH_PART, prefix)
        return rows[0][0] if rows and rows[0][0].startswith(prefix) else None

    def valid_paths(self, paths: Iterable[str]) -> list[StorePath]:
        """Return those of a few paths that are valid, sorted; see `valid_subset` for many."""
        return sorted(StorePath(path) for path in set(paths) if self.is_valid(path))

    def has_failed(self, path: str) -> bool:
        """Tell whether a build of this output is remembered as failed."""
        return bool(self._rows(_HAS_FAILED, path))

    def _rows(self, statement: str, path: str) -> list[tuple[Any, ...]]:
        try:
            return cast("list[tuple[Any, ...]]", self._find(statement, (path,)).fetchall())
        except apsw.Error as error:
            raise DatabaseError(f"cannot look up `{path}': {error}") from error

    def _only_row(self, statement: str, path: str) -> tuple[Any, ...]:
        rows = self._rows(statement, path)
        if not rows:
            raise not_valid(path)
        return rows[0]


def not_valid(path: str) -> NotValidError:
    """Make the error that clients know, for a path that no item has."""
    return NotValidError(f"path `{path}' is not valid")


def _split(joined: str | None) -> list[StorePath]:
    return cast("list[StorePath]", joined.split("\n")) if joined else []


def _parse_hash(path: str, text: str) -> Digest:
    try:
        return Digest.parse_prefixed(text)
    except InvalidHashError as error:
        raise DatabaseError(f"{error.message} in valid-path entry for `{path}'") from error
