# SPDX-License-Identifier: GPL-3.0-or-later
"""The native methods about garbage: collecting it, and telling what is none, and why."""

import time
from collections.abc import Iterator
from typing import Any

from builder.events import Level, Message
from store.collection import Action, Event, Reason, Wish
from store.collection.events import (
    Emptied,
    Entered,
    LimitReached,
    Remark,
    Removed,
    Savings,
)
from storedaemon.operations import garbage
from storedaemon.sessions.native_call import Call, Result
from storedaemon.wire.native.params import Params

_PATHS_IN_EVENT = 64
_LINKS_IN_CHAIN = 64


async def collect_garbage(call: Call) -> Result:
    """Delete garbage, or tell what would be deleted; the paths come in events."""
    wish = _wish(call)
    saved: int | None = None

    async def report(event: Event) -> None:
        nonlocal saved
        if isinstance(event, Savings):
            saved = event.saved
        await _tell(call, event)

    free = call.params.optional_number("free")
    if free is None:
        done = await garbage.collect_garbage(call.services, call.session, wish, report)
    else:
        done = await garbage.collect_until_free(call.services, call.session, wish, free, report)
    return {"deleted": len(done.paths), "freed": done.freed, "saved": saved}


async def live(call: Call) -> Result:
    """List what some root keeps."""
    return await _listing(call, Action.LIST_LIVE)


async def dead(call: Call) -> Result:
    """List what no root keeps, with what lies in the store without being registered."""
    return await _listing(call, Action.LIST_DEAD)


async def why_alive(call: Call) -> Result:
    """Tell which roots keep an item, and through which references."""
    path = call.params.text("path")
    reasons = await garbage.explain_liveness(call.services, call.session, path, call.send_events)
    for reason in reasons[:-1]:
        await call.send_event("reason", _reason_map(reason))
    return {"reason": _reason_map(reasons[-1]) if reasons else None}


def _wish(call: Call) -> Wish:
    params = call.params
    specific = params.has("paths")
    paths = params.texts("paths") if specific else []
    return Wish(
        Action.DELETE_SPECIFIC if specific else Action.DELETE_DEAD,
        [call.services.directory.parse(path) for path in paths],
        limit=params.optional_number("limit"),
        used_before=_used_before(params),
        dry=params.flag("dry-run"),
    )


def _used_before(params: Params) -> int | None:
    unused = params.optional_number("unused-for")
    return None if unused is None else int(time.time()) - unused


async def _listing(call: Call, action: Action) -> Result:
    async def report(event: Event) -> None:
        await _tell(call, event)

    done = await garbage.collect_garbage(call.services, call.session, Wish(action), report)
    parts = list(_parts(done.paths))
    for part in parts[:-1]:
        await call.send_event("paths", {"paths": part})
    return {"paths": parts[-1] if parts else []}


async def _tell(call: Call, event: Event) -> None:
    match event:
        case Entered(stage, total):
            await call.send_event("stage", {"stage": stage.value, "total": total})
        case Remark(text, important):
            await call.send_events(Message(text, Level.ERROR if important else Level.INFO))
        case Removed(paths, _, total):
            for part in _parts(paths):
                await call.send_event("deleted", {"paths": part, "freed": total})
        case Emptied(done, freed):
            await call.send_event("emptied", {"done": done, "freed": freed})
        case LimitReached(limit):
            await call.send_event("limit", {"limit": limit})
        case Savings():
            return


def _parts(paths: tuple[str, ...]) -> Iterator[list[str]]:
    """Cut a list of paths such that each part fits a message, whatever their names."""
    for start in range(0, len(paths), _PATHS_IN_EVENT):
        yield [_plain(path) for path in paths[start : start + _PATHS_IN_EVENT]]


def _plain(path: str) -> str:
    """Replace what is no text; only something that was never registered has such a name."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _reason_map(reason: Reason) -> dict[str, Any]:
    chain = list(reason.chain)
    if len(chain) > _LINKS_IN_CHAIN:
        # Nobody reads such a way, and it would not fit a message.
        chain = [*chain[: _LINKS_IN_CHAIN // 2], *chain[-_LINKS_IN_CHAIN // 2 :]]
    return {
        "kind": reason.kind,
        "link": _plain(reason.link) or None,
        "chain": chain,
        "length": len(reason.chain),
    }
