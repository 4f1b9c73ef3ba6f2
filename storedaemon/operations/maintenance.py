# SPDX-License-Identifier: GPL-3.0-or-later
"""Remembered failures."""

from collections.abc import Sequence

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
