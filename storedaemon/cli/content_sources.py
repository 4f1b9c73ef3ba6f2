# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon content-sources`: what is known of media that hold content."""

import time
from argparse import Namespace
from collections.abc import Iterator

import trio

from store.content_sources.scanner import SourceStatus, State
from store.units import show_bytes
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.progress import printable
from storedaemon.cli.session import connected
from storedaemon.wire.native.content_sources import source_map


def run(options: Namespace) -> int:
    """Run the command; give the exit code."""
    return trio.run(_content_sources, options)


async def _content_sources(options: Namespace) -> int:
    async with connected(options) as client:
        found = await client.content_sources()
    if options.json:
        print_json(list(map(source_map, found)))
    else:
        print_lines(line for each in found for line in source_lines(each))
    return Exit.OK


def source_lines(source: SourceStatus) -> Iterator[str]:
    """Tell people of a source."""
    yield f"{printable(source.path)}: {source.state}"
    yield f"  {source.files} files and {source.trees} directories are known"
    if source.hashed or source.state is State.SCANNING:
        yield f"  {show_bytes(source.hashed)} read by the latest scan"
    if source.last_scan:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(source.last_scan))
        yield f"  last complete scan {when}, in {source.seconds:.1f} s"
    if source.problem:
        yield f"  last problem: {printable(source.problem)}"
