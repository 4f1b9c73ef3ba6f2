# SPDX-License-Identifier: GPL-3.0-or-later
"""The native methods that watch and steer what the daemon builds."""

from typing import Any

from builder.events import GoalWaiting
from builder.scheduling.watching import GoalBegun, GoalEnded, Missed, Sight
from storedaemon.operations import buildlogs, control, following, info
from storedaemon.sessions.native_call import Call, Result
from storedaemon.wire.native import records
from storedaemon.wire.native.events import event_fields

MAX_ATTEMPT = 1_000_000


async def log(call: Call) -> Result:
    """Send the log of a build, and go on until it ends where that is wanted."""
    params = call.params
    path, attempt = params.text("path"), params.optional_number("attempt", limit=MAX_ATTEMPT)
    if params.flag("follow") and attempt is None:
        return await _follow(call, path)
    size = 0
    async with buildlogs.open_log(call.services, call.session, path, attempt) as reader:
        while piece := await reader.next_piece():
            size += len(piece)
            await call.send_chunk(piece)
    return {"size": size}


async def _follow(call: Call, path: str) -> Result:
    async def tell(event: GoalWaiting) -> None:
        await call.send_events(event)

    followed = await following.follow_log(call.services, call.session, path, call.send_chunk, tell)
    if not followed.outcome:
        return {"size": followed.size}
    return {"size": followed.size, "outcome": followed.outcome, "message": followed.message}


async def set_priority(call: Call) -> Result:
    """Let a build come before others of its user, or after them."""
    path, priority = call.params.text("path"), call.params.signed("priority", control.MAX_PRIORITY)
    changed = await control.set_priority(call.services, call.session, path, priority)
    return {"changed": changed}


async def subscribe(call: Call) -> Result:
    """Tell all that happens, until the client withdraws the request."""
    watchers = call.services.scheduler.watchers
    subscription = watchers.subscribe(control.uid_to_watch(call.session))
    try:
        async for sight in subscription:
            await _send(call, sight)
    finally:
        watchers.unsubscribe(subscription)
    return {}


async def _send(call: Call, sight: Sight | Missed) -> None:
    if isinstance(sight, Missed):
        await call.send_event("missed", {"count": sight.count})
        return
    more = {"time": sight.time, "clients": records.client_maps(sight.clients)}
    match sight.event:
        case GoalBegun(drv, kind):
            await call.send_event("begun", {"drv": drv, "mode": kind, **more})
        case GoalEnded(drv, outcome, seconds):
            ended = {"drv": drv, "outcome": outcome, "seconds": seconds}
            await call.send_event("ended", {**ended, **more})
        case event:
            for name, fields in event_fields(event):
                await call.send_event(name, {**fields, **more})


async def goals(call: Call) -> list[dict[str, Any]]:
    """Describe what is built, and what waits."""
    views = await info.list_jobs(call.services, call.session)
    return [records.goal_map(view) for view in views]


def goal_length(goal: dict[str, Any]) -> int:
    """Give about how long a goal's description is in a message."""
    # The names and the numbers take some 300 bytes beside the texts.
    texts = ("drv", "waits-for", "log-file", "last-line", "holders", "clients")
    return 300 + sum(len(str(goal[key])) for key in texts)
