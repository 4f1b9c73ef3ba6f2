# SPDX-License-Identifier: GPL-3.0-or-later
"""Steering builds that are asked for already."""

from store.errors import StoreError
from storedaemon.services import Services
from storedaemon.session import Session

MAX_PRIORITY = 1000
"""Priorities go from minus this to this; that of a build is 0 at first."""


async def set_priority(services: Services, session: Session, path: str, priority: int) -> bool:
    """Say how soon a build gets a slot among those of the same user; tell whether there is one.

    Shares of users stay as they are. Whoever is not trusted may only put off what
    nobody else wants.

    Raises:
        InvalidPathError: The path is not in the store.
        StoreError: The client may not do that (reason ``not-privileged``).
    """
    jobs = services.scheduler.jobs_of(services.directory.parse(path))
    client = session.client
    for job in jobs:
        if client.trusted:
            continue
        others = [each for each in job.followers if each.client.uid != client.uid]
        if others or client.uid is None:
            raise StoreError(f"others want `{path}' too", reason="not-privileged")
        if priority > job.claim.priority:
            raise StoreError("only trusted users may raise priorities", reason="not-privileged")
    for job in jobs:
        job.claim.set_priority(priority)
    return bool(jobs)


def uid_to_watch(session: Session) -> int | None:
    """Return whose goals a client may watch; None for everybody's.

    Raises:
        StoreError: Nobody knows who it is (reason ``not-privileged``).
    """
    client = session.client
    if client.trusted:
        return None
    if client.uid is None:
        raise StoreError("only known users may watch builds", reason="not-privileged")
    return client.uid
