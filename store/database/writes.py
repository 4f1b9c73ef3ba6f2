# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes to the database, each meant to run within one transaction.

They take a connection that has begun one, wait for nothing, and raise to have
it rolled back (`store.database.writer` begins and ends it).
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import apsw

from store.database.order import topological_order
from store.database.reads import not_valid
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.paths import StorePath
from store.turns import portions

_ID = "select id from ValidPaths where path = ?"
_INSERT = """
insert into ValidPaths (path, hash, registrationTime, deriver, narSize) values (?, ?, ?, ?, ?)
    on conflict (path) do nothing"""
_UPDATE = "update ValidPaths set narSize = ?, hash = ? where path = ?"
_INSERT_REFERENCES = """
insert or replace into Refs (referrer, reference)
select ?, id from ValidPaths where path in (select value from json_each(?)) order by id"""
_REFERENCES = "select path from Refs join ValidPaths on id = reference where referrer = ?"
_INSERT_OUTPUT = "insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)"
_REFERRERS = """
select path from Refs join ValidPaths on id = referrer
 where reference = (select id from ValidPaths where path = ?1) and path <> ?1 order by path"""
_DELETE = "delete from ValidPaths where path = ?"
_FAIL = "insert or ignore into FailedPaths (path, time) values (?, ?)"
# Naming a derivation forgives its outputs.
_FORGIVE = """
delete from FailedPaths where path = ?1 or path in
  (select d.path from DerivationOutputs d join ValidPaths v on v.id = d.drv where v.path = ?1)"""
_FORGIVE_ALL = "delete from FailedPaths"


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to be registered.

    Attributes:
        info: What is known of it; a registration time of 0 means now.
        derivation_outputs: For a derivation, its outputs by name: the
            collector asks for them. The caller has checked them.
    """

    info: PathInfo
    derivation_outputs: Mapping[str, StorePath] = field(default_factory=dict)


def register(connection: apsw.Connection, items: Sequence[NewItem]) -> None:
    """Make items valid, all or none; of those that are, renew hash and size.

    Raises:
        NotValidError: A reference is neither valid nor among the items.
        StoreError: Items refer to each other in a circle, or a hash is not sha256.
    """
    ids: dict[str, int] = {}
    renewed: list[StorePath] = []
    for item in items:
        path = item.info.path
        identity = _insert(connection, item)
        if identity is None:
            identity = _update(connection, item.info)
            renewed.append(path)
        ids[path] = identity
    for item in items:
        if item.info.references:
            _refer(connection, item.info, ids[item.info.path])
    if len(items) > 1:
        _refuse_cycles(connection, items, {path: ids[path] for path in renewed})


def update_hash(connection: apsw.Connection, path: StorePath, digest: Digest, size: int) -> None:
    """Correct hash and size of a valid item.

    Raises:
        NotValidError: There is no such item.
    """
    connection.execute(_UPDATE, (size or None, str(digest), path))
    if not connection.changes():
        raise not_valid(path)


def invalidate(connection: apsw.Connection, path: StorePath) -> None:
    """Forget an item; nothing happens where it is not valid.

    Raises:
        StoreError: Another item refers to it (reason ``in-use``).
    """
    referrers = [row[0] for row in connection.execute(_REFERRERS, (path,))]
    if referrers:
        users = ", ".join(f"`{referrer}'" for referrer in referrers)
        raise StoreError(
            f"cannot delete path `{path}' because it is in use by {users}", reason="in-use"
        )
    connection.execute(_DELETE, (path,))


def register_failed(connection: apsw.Connection, paths: Iterable[StorePath]) -> None:
    """Remember that building these outputs failed for good."""
    now = int(time.time())
    for path in paths:
        connection.execute(_FAIL, (path, now))


def clear_failed(connection: apsw.Connection, paths: Iterable[str]) -> None:
    """Forget failures of outputs, of the outputs of derivations, or with ``*`` all of them."""
    for path in paths:
        if path == "*":
            connection.execute(_FORGIVE_ALL)
        else:
            connection.execute(_FORGIVE, (path,))


def _insert(connection: apsw.Connection, item: NewItem) -> int | None:
    """Make a row; return its number, or None where the item has one already."""
    info = item.info
    connection.execute(
        _INSERT,
        (
            info.path,
            _hash_column(info),
            info.registration_time or int(time.time()),
            info.deriver,
            info.nar_size or None,
        ),
    )
    if not connection.changes():
        return None
    identity = connection.last_insert_rowid()
    for name, path in item.derivation_outputs.items():
        connection.execute(_INSERT_OUTPUT, (identity, name, path))
    return identity


def _update(connection: apsw.Connection, info: PathInfo) -> int:
    connection.execute(_UPDATE, (info.nar_size or None, _hash_column(info), info.path))
    identity: int = connection.execute(_ID, (info.path,)).get
    return identity


def _hash_column(info: PathInfo) -> str:
    if info.nar_hash.algorithm is not HashAlgorithm.SHA256:
        raise StoreError(f"the NAR hash of `{info.path}' must be sha256", reason="invalid-hash")
    return f"sha256:{info.nar_hash.value.hex()}"


def _refer(connection: apsw.Connection, info: PathInfo, referrer: int) -> None:
    for paths in portions(info.references):
        connection.execute(_INSERT_REFERENCES, (referrer, json.dumps(paths)))
        if connection.changes() < len(paths):
            find = connection.cursor().execute
            raise not_valid(min(path for path in paths if find(_ID, (path,)).get is None))


def _refuse_cycles(
    connection: apsw.Connection, items: Sequence[NewItem], renewed: Mapping[StorePath, int]
) -> None:
    """Look for circles among the items, with what renewed ones referred to already.

    Only items made together can form one: an item registered alone refers to
    itself or to what was complete before it.
    """
    graph = {item.info.path: set(item.info.references) for item in items}
    for path, identity in renewed.items():
        graph[path].update(row[0] for row in connection.execute(_REFERENCES, (identity,)))
    topological_order(graph)
