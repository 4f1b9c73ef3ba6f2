# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about what is registered.

One item's row is an indexed look-up of microseconds and stays on the event
loop; what grows with the store or with the request goes to a thread.
"""

from collections.abc import Sequence

from store.hashes import Digest
from store.info import PathInfo
from store.paths import StorePath
from storedaemon.basics import Basics
from storedaemon.operations.paths import entries, entry
from storedaemon.session import Session

# So many look-ups take as long as a trip to a thread and back.
FEW = 64


async def is_valid_path(basics: Basics, _session: Session, path: str) -> bool:
    """Tell whether an item is registered.

    Raises:
        InvalidPathError: The path is not in the store.
    """
    return basics.database.is_valid(entry(basics.directory, path))


async def query_valid_paths(
    basics: Basics, _session: Session, paths: Sequence[str]
) -> list[StorePath]:
    """Return those of the paths that are registered, sorted.

    Raises:
        InvalidPathError: A path is not in the store.
    """
    asked = entries(basics.directory, paths)
    if len(asked) <= FEW:
        return basics.database.valid_paths(asked)
    return sorted(await basics.database.valid_subset(asked))


async def query_path_info(basics: Basics, _session: Session, path: str) -> PathInfo:
    """Return what is registered of an item.

    Raises:
        InvalidPathError: The path is not in the store.
        NotValidError: There is no such item.
    """
    return basics.database.path_info(entry(basics.directory, path))


async def query_path_hash(basics: Basics, session: Session, path: str) -> Digest:
    """Return the hash of an item's archive form; raises as `query_path_info`."""
    return (await query_path_info(basics, session, path)).nar_hash


async def query_references(basics: Basics, _session: Session, path: str) -> list[StorePath]:
    """Return what an item refers to, sorted; raises as `query_path_info`."""
    return basics.database.references(entry(basics.directory, path))


async def query_referrers(basics: Basics, _session: Session, path: str) -> list[StorePath]:
    """Return what refers to an item, sorted; none where it is not registered.

    Raises:
        InvalidPathError: The path is not in the store.
    """
    return basics.database.referrers(entry(basics.directory, path))


async def query_valid_derivers(basics: Basics, _session: Session, path: str) -> list[StorePath]:
    """Return the registered derivations that have this output, sorted.

    Raises:
        InvalidPathError: The path is not in the store.
    """
    return basics.database.valid_derivers(entry(basics.directory, path))


async def query_deriver(basics: Basics, _session: Session, path: str) -> StorePath | None:
    """Return the derivation that made an item, if known; raises as `query_path_info`."""
    return basics.database.deriver(entry(basics.directory, path))


async def query_derivation_outputs(basics: Basics, _session: Session, path: str) -> list[StorePath]:
    """Return the paths of a derivation's outputs, sorted; raises as `query_path_info`."""
    return basics.database.derivation_outputs(entry(basics.directory, path))


async def query_derivation_output_names(basics: Basics, _session: Session, path: str) -> list[str]:
    """Return the names of a derivation's outputs, sorted; raises as `query_path_info`."""
    return basics.database.derivation_output_names(entry(basics.directory, path))


async def query_path_from_hash_part(
    basics: Basics, _session: Session, hash_part: str
) -> StorePath | None:
    """Return the item with this hash part, if there is one.

    Raises:
        InvalidPathError: The text cannot be a hash part.
    """
    if not hash_part.isascii():
        return None
    return basics.database.path_from_hash_part(hash_part)


async def query_all_valid_paths(basics: Basics, _session: Session) -> list[StorePath]:
    """Return every registered item, sorted."""
    return sorted(await basics.database.all_valid_paths())


async def query_closure(basics: Basics, _session: Session, paths: Sequence[str]) -> list[StorePath]:
    """Return items and all that they refer to, however remotely, sorted.

    Raises:
        InvalidPathError: A path is not in the store.
        NotValidError: One of the items given is not registered.
    """
    return sorted(await basics.database.closure(entries(basics.directory, paths)))
