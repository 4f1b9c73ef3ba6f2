# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that carry items from store to store: `export` and `import`."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator

import trio

from store.errors import StoreError
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.session import connected

_BLOCK = 1 << 18


def run(options: Namespace) -> int:
    """Run one of the commands; give the exit code."""
    return trio.run({"export": _export, "import": _import}[options.command], options)


async def _export(options: Namespace) -> int:
    if sys.stdout.isatty():
        raise StoreError(
            "an archive is not for a terminal; redirect standard output",
            reason="usage",
            status=Exit.USAGE,
        )
    wanted = {"closure": options.recursive, "sign": options.sign}
    async with connected(options) as client, client.export(options.paths, **wanted) as stream:
        async for piece in stream:
            await trio.to_thread.run_sync(sys.stdout.buffer.write, piece)
    return Exit.OK


async def _import(options: Namespace) -> int:
    async with connected(options) as client:
        paths = await client.import_items(_standard_input())
    if options.json:
        print_json(paths)
    else:
        print_lines(paths)
    return Exit.OK


def _standard_input() -> Iterator[bytes]:
    while data := os.read(sys.stdin.fileno(), _BLOCK):
        yield data
