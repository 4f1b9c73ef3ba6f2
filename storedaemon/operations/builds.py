# SPDX-License-Identifier: GPL-3.0-or-later
"""Having things built."""

from collections.abc import Awaitable, Callable, Sequence

from builder.errors import BuildError
from builder.events import BuildEvent
from builder.options import BuildMode, BuildOptions
from builder.scheduling.audience import TellNow
from builder.scheduling.scheduler import BuildReport
from store.errors import StoreError
from storedaemon.operations.paths import entry
from storedaemon.services import Services
from storedaemon.session import Session

Events = Callable[[BuildEvent], Awaitable[None]]


async def build_paths(
    services: Services,
    session: Session,
    targets: Sequence[str],
    mode: BuildMode,
    events: Events,
    tell_now: TellNow | None = None,
) -> BuildReport:
    """Have derivations built, and wait until all their outputs are valid.

    Args:
        services: The daemon's.
        session: The client's.
        targets: Derivations, perhaps with ``!OUTPUT,…`` after them, or items.
        mode: Whether to build, to repair, or to build again and compare.
        events: Awaited with each event, in order.
        tell_now: Called first where the event may be told at once, see `EventQueue`.

    Raises:
        BuildError: Something could not be built.
        StoreError: Repairing needs trust (reason ``not-privileged``).
    """
    options = options_for(services, session, mode)
    return await services.scheduler.build(
        targets, options, session.client, session.roots, events, tell_now
    )


def options_for(services: Services, session: Session, mode: BuildMode) -> BuildOptions:
    """Return the options of a build that a client asks for.

    Raises:
        StoreError: Repairing needs trust (reason ``not-privileged``).
    """
    if mode is BuildMode.REPAIR and not session.client.trusted:
        raise StoreError("repairing is a privileged operation", reason="not-privileged")
    return session.build_options(services.config, mode)


async def ensure_path(services: Services, session: Session, path: str, events: Events) -> None:
    """See that an item is valid: that it is, or is substituted.

    Raises:
        InvalidPathError: The path is not in the store.
        StoreError: The item cannot be had (reason ``cannot-create``).
    """
    if services.database.is_valid(entry(services.directory, path)):
        return
    if services.directory.is_store_path(path):
        await _substitute(services, session, path, events)
    if not services.database.is_valid(path):
        raise StoreError(
            f"path `{path}' does not exist and cannot be created", reason="cannot-create"
        )


async def _substitute(services: Services, session: Session, path: str, events: Events) -> None:
    options = session.build_options(services.config, BuildMode.NORMAL)
    try:
        await services.scheduler.substitute(path, options, session.client, session.roots, events)
    except BuildError as error:
        raise StoreError(
            f"path `{path}' does not exist and cannot be created",
            reason="cannot-create",
            status=error.status,
        ) from error


async def cancel_build(services: Services, session: Session, path: str) -> bool:
    """End a build for all who want it; return whether there was one.

    Whoever is not trusted may only end what nobody else wants.

    Raises:
        InvalidPathError: The path is not in the store.
        StoreError: Others want the build too (reason ``not-privileged``).
    """
    drv = services.directory.parse(path)
    client = session.client
    wanted_by = [
        other for job in services.scheduler.snapshot() if job.path == drv for other in job.clients
    ]
    if not client.trusted and any(
        client.uid is None or other.uid != client.uid for other in wanted_by
    ):
        raise StoreError(f"others want `{drv}' too", reason="not-privileged")
    return services.scheduler.cancel(drv)
