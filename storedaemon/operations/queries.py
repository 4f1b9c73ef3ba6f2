# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about what is registered.

One item's row is an indexed look-up of microseconds and stays on the event
loop; what grows with the store or with the request goes to a thread.
"""

from collections.abc import Sequence

from store.hashes import Digest
from store.info import PathInfo
from store.paths import StorePath
from storedaemon.operations.paths import entries, entry
from storedaemon.services import Services
from storedaemon.session import Session

# So many look-ups take as long as a trip to a thread and back.
FEW = 64


async def is_valid_path(services: Services, _session: Session, path: str) -> bool:
    """Tell whether an item is registered.

    Raises:
        InvalidPathError: The path is not in the store.
    """
    return services.database.is_valid(entry(services.directory, path))


async def query_valid_paths(
    services: Services, _session: Session, paths: Sequence[str]
) -> list[StorePath]:
    """Return those of the paths that are registered, sorted.

    Raises:
        InvalidPathError: A path is not in the store.
    """
    asked = entries(services.directory, paths)
    if len(asked) <= FEW:
        return services.database.valid_paths(asked)
    return sorted(await services.database.valid_subset(asked))


async def query_path_info(services: Services, _session: Session, path: str) -> PathInfo:
    """Return what is registered of an item.

    Raises:
        InvalidPathError: The path is not in the store.
        NotValidError: There is no such item.
    """
    return services.database.path_info(entry(services.directory, path))


async def query_path_hash(services: Services, session: Session, path: str) -> Digest:
    """Return the hash of an item's archive form; raises as `query_path_info`."""
    return (await query_path_info(services, session, path)).nar_hash


async def query_references(services: Services, _session: Session, path: str) -> list[StorePath]:
    """Return what an item refers to, sorted; raises as `query_path_info`."""
    return services.database.references(entry(services.directory, path))


async def query_referrers(services: Services, _session: Session, path: str) -> list[StorePath]:
    """Return what refers to an item, sorted; none where it is not registered.

    Raises:
        InvalidPathError: The path is not in the store.
    """
    return services.database.referrers(entry(services.directory, path))


async def query_valid_derivers(services: Services, _session: Session, path: str) -> list[StorePath]:
    """Return the registered derivations that have this output, sorted.

    Raises:
        InvalidPathError: The path is not in the store.
    """
    return services.database.valid_derivers(entry(services.directory, path))


async def query_deriver(services: Services, _session: Session, path: str) -> StorePath | None:
    """Return the derivation that made an item, if known; raises as `query_path_info`."""
    return services.database.deriver(entry(services.directory, path))


async def query_derivation_outputs(
    services: Services, _session: Session, path: str
) -> list[StorePath]:
    """Return the paths of a derivation's outputs, sorted; raises as `query_path_info`."""
    return services.database.derivation_outputs(entry(services.directory, path))


async def query_derivation_output_names(
    services: Services, _session: Session, path: str
) -> list[str]:
    """Return the names of a derivation's outputs, sorted; raises as `query_path_info`."""
    return services.database.derivation_output_names(entry(services.directory, path))


async def query_path_from_hash_part(
    services: Services, _session: Session, hash_part: str
) -> StorePath | None:
    """Return the item with this hash part, if there is one.

    Raises:
        InvalidPathError: The text cannot be a hash part.
    """
    if not hash_part.isascii():
        return None
    return services.database.path_from_hash_part(hash_part)


async def query_all_valid_paths(services: Services, _session: Session) -> list[StorePath]:
    """Return every registered item, sorted."""
    return sorted(await services.database.all_valid_paths())


async def query_closure(
    services: Services, _session: Session, paths: Sequence[str]
) -> list[StorePath]:
    """Return items and all that they refer to, however remotely, sorted.

    Raises:
        InvalidPathError: A path is not in the store.
        NotValidError: One of the items given is not registered.
    """
    return sorted(await services.database.closure(entries(services.directory, paths)))
