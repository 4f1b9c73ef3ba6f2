# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking how builds went: each attempt, and what passes only when the machine is quiet."""

from builder.retries.records import Attempt, Flaky
from storedaemon.services import Services
from storedaemon.session import Session

MOST = 100
"""Entries that are given, which fit a message."""


async def attempts(services: Services, _session: Session, path: str) -> list[Attempt]:
    """Return the attempts at building a derivation, the latest first, at most `MOST`.

    Raises:
        InvalidPathError: The path is not in the store.
    """
    return services.history.of_derivation(services.directory.parse(path), MOST)


async def flaky(services: Services, _session: Session) -> list[Flaky]:
    """Return what has failed and then passed when it was quieter, the latest first."""
    return await services.history.flaky(MOST)
