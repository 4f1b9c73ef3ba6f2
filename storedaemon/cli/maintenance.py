# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that look after the store: `verify`, `repair`, `optimise`, `failed-paths`."""

import json
import sys
from argparse import Namespace
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any

import trio

from builder.events import BuildEvent, ItemDamaged, Level, Message
from store.errors import StoreError
from store.units import show_bytes
from storedaemon.cli.exits import Exit
from storedaemon.cli.reporters import JsonReporter, LineReporter, Reporter, style
from storedaemon.cli.session import connected
from storedaemon.client.maintenance import Verification
from storedaemon.wire.native.events import UnknownEvent

_SHOWN = {Level.ERROR, Level.INFO}


def run(options: Namespace) -> int:
    """Run one of the commands; give the exit code."""
    return trio.run(_COMMANDS[options.command], options)


async def _verify(options: Namespace) -> int:
    async with (
        connected(options) as client,
        client.verify(contents=options.contents, repair=options.repair) as verification,
    ):
        return await _follow(verification, options)


async def _repair(options: Namespace) -> int:
    async with connected(options) as client, client.repair(options.paths) as verification:
        return await _follow(verification, options)


async def _follow(verification: Verification, options: Namespace) -> int:
    reporter = _make_reporter(options)
    async for event in verification:
        _show(reporter, event)
        if isinstance(event, ItemDamaged) and not options.json:
            word = "repaired" if event.repaired else event.damage
            sys.stdout.write(f"{word} {event.path}\n")
    errors = await verification.errors()
    if options.json:
        _print_done({"errors": errors})
    return Exit.DAMAGED if errors else Exit.OK


async def _optimise(options: Namespace) -> int:
    async with connected(options) as client, client.optimise() as optimisation:
        await _show_all(optimisation, options)
        saved = await optimisation.saved()
    if options.json:
        _print_done({"files": saved.files, "size": saved.size})
    else:
        sys.stdout.write(f"{show_bytes(saved.size)} saved by sharing {saved.files} files\n")
    return Exit.OK


async def _show_all(events: AsyncIterable[BuildEvent | UnknownEvent], options: Namespace) -> None:
    reporter = _make_reporter(options)
    async for event in events:
        _show(reporter, event)


def _make_reporter(options: Namespace) -> Reporter:
    if options.json:
        return JsonReporter(sys.stdout)
    return LineReporter(
        sys.stderr, style(sys.stderr), log=not options.quiet, course=not options.quiet
    )


def _show(reporter: Reporter, event: BuildEvent | UnknownEvent) -> None:
    """Show an event; to people, no message for each item of the store."""
    spared = isinstance(event, Message) and event.level not in _SHOWN
    if isinstance(reporter, JsonReporter) or not spared:
        reporter.event(event)


def _print_done(result: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps({"event": "done", **result}) + "\n")


async def _failed_paths(options: Namespace) -> int:
    if options.paths and not options.clear:
        raise StoreError("PATH is for --clear", reason="usage", status=Exit.USAGE)
    async with connected(options) as client:
        if options.clear:
            await client.clear_failed_paths(options.paths or None)
            return Exit.OK
        paths = await client.failed_paths()
    if options.json:
        sys.stdout.write(json.dumps(paths) + "\n")
        return Exit.OK
    for path in paths:
        sys.stdout.write(f"{path}\n")
    return Exit.OK


_COMMANDS: Mapping[str, Callable[[Namespace], Awaitable[int]]] = {
    "verify": _verify,
    "repair": _repair,
    "optimise": _optimise,
    "failed-paths": _failed_paths,
}
