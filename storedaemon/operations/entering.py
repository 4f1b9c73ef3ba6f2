# SPDX-License-Identifier: GPL-3.0-or-later
"""Entering the containers of builds."""

from builder.entering.visit import Departure, Talk, Visit, Wish
from builder.options import BuildMode
from store.errors import StoreError
from store.paths import is_derivation
from storedaemon.services import Services
from storedaemon.session import Session


def wish_for(services: Services, session: Session, path: str, request: int) -> Wish:
    """Say what a client wants to enter: by default, with a shell in a kept directory.

    Raises:
        InvalidPathError: The path is not in the store.
        StoreError: It is no derivation (reason ``invalid-path``), or nobody knows who the
            client is (``not-privileged``).
    """
    drv = services.directory.parse(path)
    if not is_derivation(drv):
        raise StoreError(f"`{path}' is not a derivation", reason="invalid-path")
    if session.client.uid is None:
        raise StoreError("only known users may enter builds", reason="not-privileged")
    options = session.build_options(services.config, BuildMode.NORMAL)
    return Wish(drv, session.client, request, options)


async def end_shell(services: Services, session: Session, number: int) -> bool:
    """End a shell, or one that is about to run; return whether there was one.

    Raises:
        StoreError: It is somebody else's, and the client is not trusted (``not-privileged``).
    """
    visit = services.building.visits.get(number)
    if visit is None:
        return False
    client = session.client
    if not client.trusted and (client.uid is None or client.uid != visit.client.uid):
        raise StoreError("it is another user's shell", reason="not-privileged")
    visit.end()
    return True


async def enter(services: Services, visit: Visit, talk: Talk) -> Departure:
    """Run a shell in the place of a builder, to its end.

    Raises:
        StoreError: It cannot be run; see `Visits.enter`.
    """
    with services.temp_roots.session() as roots:
        return await services.building.visits.enter(visit, roots, talk)
