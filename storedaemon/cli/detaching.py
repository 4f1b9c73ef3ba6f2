# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands for builds that go on by themselves: `detach`, `attach`, `detached`."""

from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from builder.scheduling.waiting import clock
from store.errors import StoreError
from storedaemon.cli.build import follow, print_result, tell_detached
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.progress import printable, short_name
from storedaemon.cli.session import connected


def run(options: Namespace) -> int:
    """Run one of the commands; give the exit code."""
    return trio.run(_COMMANDS[options.command], options)


async def _detach(options: Namespace) -> int:
    async with connected(options) as client:
        return tell_detached(await client.detach(options.drv), options)


async def _attach(options: Namespace) -> int:
    async with connected(options) as client:
        outputs = await follow(client.attach(options.build), options)
    print_result(outputs, options)
    return Exit.OK


async def _detached(options: Namespace) -> int:
    async with connected(options) as client:
        if options.end is not None:
            if not await client.end_detached(options.end):
                raise StoreError(f"there is no detached build {options.end}")
            return Exit.OK
        found = await client.detached()
    if options.json:
        print_json(found)
    else:
        print_lines(map(_line, found))
    return Exit.OK


def _line(build: Mapping[str, Any]) -> str:
    names = ", ".join(short_name(str(target)) for target in build["targets"])
    since = f"since {clock(float(build['since']))}"
    message = f" ({build['message']})" if build["message"] else ""
    words = f"{build['detached']}  {build['state']}  {since}  for {build['user']}  {names}"
    return printable(words + message)


_COMMANDS: Mapping[str, Callable[[Namespace], Awaitable[int]]] = {
    "detach": _detach,
    "attach": _attach,
    "detached": _detached,
}
