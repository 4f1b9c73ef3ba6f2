# SPDX-License-Identifier: GPL-3.0-or-later
"""Collecting garbage, and what the daemon's own parts keep from it."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

from builder.events import Message
from store.collection import Collected, Event, Reason, Wish
from store.collection.events import Remark, Report
from store.database.garbage import Keeping
from store.errors import StoreError
from storedaemon.services import Services
from storedaemon.session import Session

_KEEP_OUTPUTS = "gc-keep-outputs"
_KEEP_DERIVATIONS = "gc-keep-derivations"


async def collect_garbage(
    services: Services,
    session: Session,
    wish: Wish,
    report: Report,
    *,
    ignore_liveness: bool = False,
) -> Collected:
    """List or delete what no root reaches; what keeps items besides roots is as configured.

    Args:
        services: The daemon's.
        session: The client's; a trusted one's settings count before the daemon's.
        wish: What to do.
        report: Awaited with each event.
        ignore_liveness: Whether the client wants things deleted that are in use.

    Raises:
        StoreError: The client is on another machine (reason ``remote``), or wants to
            ignore liveness (``not-privileged``), or an item is alive (``alive``).
    """
    if session.client.uid is None:
        raise StoreError("Garbage collection is disabled for remote hosts.", reason="remote")
    if ignore_liveness:
        raise StoreError("you are not allowed to ignore liveness", reason="not-privileged")
    wish = replace(wish, keeping=_keeping(services, session))
    return await services.collector.collect(wish, report)


async def collect_until_free(
    services: Services, session: Session, wish: Wish, free: int, report: Report
) -> Collected:
    """Collect until so many bytes are free on the store's file system, as far as garbage goes.

    What is freed is estimated before it is gone, so this may take several rounds.
    """
    paths: list[str] = []
    freed = 0
    while True:
        lacking = max(0, free - _available(services))
        limit = lacking if wish.limit is None else min(lacking, max(0, wish.limit - freed))
        done = await collect_garbage(services, session, replace(wish, limit=limit), report)
        paths += done.paths
        freed += done.freed
        if wish.dry or not limit or not done.paths:
            return Collected(tuple(paths), freed)


async def explain_liveness(
    services: Services,
    session: Session,
    path: str,
    events: Callable[[Message], Awaitable[None]],
) -> list[Reason]:
    """Tell which roots keep an item, and through which references; nothing does for garbage.

    Raises:
        NotValidError: There is no such item.
        InvalidPathError: The path is no store path.
    """

    async def report(event: Event) -> None:
        if isinstance(event, Remark):
            await events(Message(event.text))

    item = services.directory.parse(path)
    return await services.collector.explain(item, _keeping(services, session), report)


def _available(services: Services) -> int:
    status = os.statvfs(services.layout.store)
    return status.f_bavail * status.f_frsize


def _keeping(services: Services, session: Session) -> Keeping:
    config = services.config
    return Keeping(
        outputs=_setting(session, _KEEP_OUTPUTS, default=config.gc_keep_outputs),
        derivations=_setting(session, _KEEP_DERIVATIONS, default=config.gc_keep_derivations),
    )


def _setting(session: Session, name: str, *, default: bool) -> bool:
    value = session.options.settings.get(name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise StoreError(
            f"configuration option `{name}' should be either `true' or `false', not `{value:.80}'",
            reason="invalid-setting",
        )
    return value == "true"
