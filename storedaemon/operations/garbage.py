# SPDX-License-Identifier: GPL-3.0-or-later
"""Collecting garbage, and what the daemon's own parts keep from it."""

from dataclasses import replace

from store.collection import Collected, Wish
from store.collection.events import Report
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
    keeping = Keeping(
        outputs=_setting(session, _KEEP_OUTPUTS, default=services.config.gc_keep_outputs),
        derivations=_setting(
            session, _KEEP_DERIVATIONS, default=services.config.gc_keep_derivations
        ),
    )
    return await services.collector.collect(replace(wish, keeping=keeping), report)


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
