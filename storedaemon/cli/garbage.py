# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `gc` and `roots`: what goes, what stays, and why."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

import trio

from builder.events import Level, Message
from store.errors import StoreError
from store.units import show_bytes
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.progress import printable
from storedaemon.cli.session import connected
from storedaemon.client.client import Client
from storedaemon.client.garbage import (
    Collected,
    Deleted,
    Emptied,
    GarbageEvent,
    GarbageWishes,
    Reason,
    Stage,
)
from storedaemon.wire.native.events import UnknownEvent

_STAGES = {
    "waiting": "waiting for another collection",
    "roots": "looking for roots",
    "deleting": "deleting garbage",
    "trash": "emptying the trash",
    "links": "deleting shared files that nothing uses",
}


def run(options: Namespace) -> int:
    """Run one of the commands; give the exit code."""
    return trio.run(_COMMANDS[options.command], options)


async def _gc(options: Namespace) -> int:
    wishes = GarbageWishes(
        paths=None if options.delete is None else _absolute(options.delete),
        limit=options.limit,
        free=options.free,
        unused_for=options.older_than,
        dry_run=options.dry_run,
    )
    show = _Show(sys.stdout, sys.stderr, json=options.json, quiet=options.quiet)
    async with connected(options) as client, client.collect_garbage(wishes) as collection:
        try:
            async for event in collection:
                show.event(event)
            done = await collection.collected()
        finally:
            show.close()
    _print_done(done, options)
    return Exit.OK


def _absolute(paths: Iterable[str]) -> list[str]:
    return [os.path.abspath(path) for path in paths]


def _print_done(done: Collected, options: Namespace) -> None:
    if options.json:
        fields = {"deleted": done.deleted, "freed": done.freed, "saved": done.saved}
        print_json({"event": "done", **fields})
        return
    verb = "would be" if options.dry_run else "were"
    size = show_bytes(done.freed).strip().replace("  ", " ")
    print_lines([f"{done.deleted} items {verb} deleted, {size} freed"])


class _Show:
    """Shows a collection: JSON, a line an item, or on a terminal one line that changes."""

    def __init__(self, out: TextIO, err: TextIO, *, json: bool, quiet: bool) -> None:
        self._out = out
        self._err = err
        self._json = json
        self._quiet = quiet
        self._live = err.isatty() and os.environ.get("TERM") != "dumb"
        self._deleted = 0
        self._status = ""

    def event(self, event: GarbageEvent) -> None:
        """Show one event."""
        if self._json:
            self._out.write(json.dumps(_json_event(event), ensure_ascii=False) + "\n")
            self._out.flush()
        elif isinstance(event, Message):
            if event.level is Level.ERROR or not self._quiet:
                self._line(event.text)
        elif not self._quiet:
            self._course(event)

    def close(self) -> None:
        """Leave nothing unfinished on the screen."""
        self._clear()

    def _course(self, event: GarbageEvent) -> None:
        match event:
            case Stage(name, _):
                self._state(_STAGES.get(name, name))
            case Deleted(paths, freed):
                self._deleted += len(paths)
                for path in paths:
                    self._item(path)
                self._state(f"{self._deleted} items, {show_bytes(freed).strip()}")
            case Emptied(done, freed):
                self._state(f"{done} gone from the disk, {show_bytes(freed).strip()}")
            case _:
                return

    def _item(self, path: str) -> None:
        if not self._live or not self._out.isatty():
            self._out.write(f"{printable(path)}\n")

    def _line(self, text: str) -> None:
        self._clear()
        self._err.write(f"{printable(text)}\n")
        self._err.flush()

    def _state(self, text: str) -> None:
        if self._live:
            self._clear()
            self._status = text
            self._err.write(text)
            self._err.flush()

    def _clear(self) -> None:
        if self._status:
            self._err.write("\r\033[K")
            self._status = ""


def _json_event(event: GarbageEvent) -> Mapping[str, Any]:
    match event:
        case Stage(name, total):
            return {"event": "stage", "stage": name, "total": total}
        case Deleted(paths, freed):
            return {"event": "deleted", "paths": list(paths), "freed": freed}
        case Emptied(done, freed):
            return {"event": "emptied", "done": done, "freed": freed}
        case Message(text, level):
            return {"event": "message", "text": text, "level": level.value}
        case UnknownEvent(name, fields):
            return {"event": name, **fields}
        case _:
            return {"event": type(event).__name__}


async def _roots(options: Namespace) -> int:
    if options.add and options.paths:
        raise StoreError("--add goes without ITEMs", reason="usage", status=Exit.USAGE)
    async with connected(options) as client:
        if options.add:
            for link in _absolute(options.add):
                await client.add_root(link)
            return Exit.OK
        if options.paths:
            return await _explain(client, options)
        found = await client.roots()
    if options.json:
        print_json([{"link": link, "path": path} for link, path in found])
    else:
        print_lines(f"{printable(link)} -> {path}" for link, path in found)
    return Exit.OK


async def _explain(client: Client, options: Namespace) -> int:
    reasons = {path: await client.why_alive(path) for path in _absolute(options.paths)}
    if options.json:
        print_json({path: list(map(_reason_json, found)) for path, found in reasons.items()})
        return Exit.OK
    for path, found in reasons.items():
        print_lines([path] if found else [f"{path}\n  nothing keeps it"])
        print_lines(line for reason in found for line in _reason_lines(reason))
    return Exit.OK


def _reason_json(reason: Reason) -> Mapping[str, Any]:
    return {"kind": reason.kind, "link": reason.link or None, "chain": list(reason.chain)}


def _reason_lines(reason: Reason) -> Iterator[str]:
    keepers = {
        "link": f"the link {printable(reason.link)}",
        "process": "a process that uses",
        "session": "a client or a build that needs",
        "daemon": "a client of another daemon that needs",
    }
    yield f"  kept by {keepers.get(reason.kind, reason.kind)}"
    for depth, path in enumerate(reason.chain):
        yield f"    {'  ' * depth}{path}"


_COMMANDS: Mapping[str, Callable[[Namespace], Awaitable[int]]] = {"gc": _gc, "roots": _roots}
