# SPDX-License-Identifier: GPL-3.0-or-later
"""Remembered failures, and what this daemon does not do yet."""

from collections.abc import Sequence

from store.errors import StoreError
from store.paths import StorePath
from storedaemon.operations.paths import entry
from storedaemon.services import Services
from storedaemon.session import Session

EVERYTHING = "*"


async def query_failed_paths(services: Services, _session: Session) -> list[StorePath]:
    """Return every output that is remembered as failed, sorted."""
    return sorted(await services.database.failed_paths())


async def clear_failed_paths(services: Services, _session: Session, paths: Sequence[str]) -> None:
    """Forget that outputs, or all outputs of derivations, failed; ``*`` means every one.

    Raises:
        InvalidPathError: A path is neither ``*`` nor in the store.
    """
    asked = [
        path if path == EVERYTHING else entry(services.directory, path)
        for path in dict.fromkeys(paths)
    ]
    await services.database.clear_failed(asked)


def not_supported(operation: str) -> StoreError:
    """Make the error for an operation that this daemon does not do yet."""
    return StoreError(f"operation {operation} is not supported yet", reason="not-supported")
