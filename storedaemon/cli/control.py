# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that follow builds and steer them: `log`, `events`, `cancel`, `priority`."""

import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from builder import events
from builder.scheduling.waiting import clock
from store.errors import StoreError
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.progress import printable, short_name
from storedaemon.cli.reporters import json_event
from storedaemon.cli.session import connected
from storedaemon.client.watching import Sighting
from storedaemon.wire.native.events import UnknownEvent


def run(options: Namespace) -> int:
    """Run one of the commands; give the exit code."""
    return trio.run(_COMMANDS[options.command], options)


async def _log(options: Namespace) -> int:
    following = options.follow and options.attempt is None
    async with (
        connected(options) as client,
        client.log(
            options.item, follow=following, attempt=options.attempt, listen=_tell_waiting
        ) as log,
    ):
        async for piece in log:
            sys.stdout.buffer.write(piece)
            if following:
                sys.stdout.buffer.flush()
        return _tell_end(log.ended)


def _tell_waiting(event: events.BuildEvent | UnknownEvent) -> None:
    if isinstance(event, events.GoalWaiting):
        sys.stderr.write(f"{short_name(event.drv)} waits for {event.what}: {event.holder}\n")


def _tell_end(ended: Mapping[str, Any]) -> int:
    outcome = ended.get("outcome")
    if not outcome:
        return Exit.OK
    sys.stdout.flush()
    if outcome == "done":
        sys.stderr.write("the build succeeded\n")
        return Exit.OK
    sys.stderr.write(f"the build failed ({outcome}): {printable(str(ended.get('message')))}\n")
    return Exit.BUILD_FAILED


async def _cancel(options: Namespace) -> int:
    async with connected(options) as client:
        if options.shell is None:
            cancelled = await client.cancel_build(options.drv)
        else:
            cancelled = await client.end_shell(options.shell)
    if options.json:
        print_json({"cancelled": cancelled})
    if not cancelled:
        if options.shell is not None:
            raise StoreError(f"there is no shell {options.shell}")
        raise StoreError(f"nothing builds '{options.drv}'")
    return Exit.OK


async def _priority(options: Namespace) -> int:
    async with connected(options) as client:
        changed = await client.set_priority(options.drv, options.priority)
    if options.json:
        print_json({"changed": changed})
    if not changed:
        raise StoreError(f"nothing builds '{options.drv}'")
    return Exit.OK


async def _events(options: Namespace) -> int:
    async with connected(options) as client, client.subscribe() as sightings:
        async for sighting in sightings:
            if options.json:
                print_json({"event": sighting.event, **_json_fields(sighting)})
            else:
                print_lines([_line(sighting)])
            sys.stdout.flush()
    return Exit.OK


def _json_fields(sighting: Sighting) -> Mapping[str, Any]:
    return json_event(UnknownEvent(sighting.event, sighting.fields))


def _line(sighting: Sighting) -> str:
    fields = sighting.fields
    if sighting.event == "missed":
        return f"({fields.get('count')} events were missed: this client reads slowly)"
    goal = fields.get("drv") or fields.get("path") or ""
    users = sorted({str(c.get("user") or "?") for c in fields.get("clients", [])})
    told = _detail(sighting)
    words = [clock(float(fields.get("time", 0))), sighting.event, short_name(str(goal)), told]
    return printable(" ".join([*filter(None, words), f"for {', '.join(users) or 'nobody'}"]))


def _detail(sighting: Sighting) -> str:
    match sighting.as_build_event():
        case events.GoalWaiting(what=what, holder=holder):
            return f"for {what}: {holder}"
        case events.BuildStarted(pid=pid):
            return f"as pid {pid}"
        case events.BuildFailed(message=message) | events.BuildRetried(message=message):
            return f"({message})"
        case events.Message(text=text):
            return text
        case UnknownEvent(fields=fields):
            return str(fields.get("outcome", fields.get("mode", "")))
        case _:
            return ""


_COMMANDS: Mapping[str, Callable[[Namespace], Awaitable[int]]] = {
    "log": _log,
    "cancel": _cancel,
    "priority": _priority,
    "events": _events,
}
