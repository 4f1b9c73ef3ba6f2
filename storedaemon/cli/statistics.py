# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon stats`: how the daemon and its caches do."""

from argparse import Namespace
from collections.abc import Iterator

import trio

from store.tally import CacheStatistics
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.session import connected
from storedaemon.wire.native.statistics import Statistics, statistics_map

_COLUMNS = ("entries", "used", "limit", "unit", "hits", "misses", "evictions", "rule")


def run(options: Namespace) -> int:
    """Run the command; give the exit code."""
    return trio.run(_stats, options)


async def _stats(options: Namespace) -> int:
    async with connected(options) as client:
        found = await client.statistics()
    if options.json:
        print_json(statistics_map(found))
    else:
        print_lines(lines(found))
    return Exit.OK


def lines(found: Statistics) -> Iterator[str]:
    """Tell people of statistics: a line a part, then a table of caches."""
    for group, numbers in found.groups.items():
        yield f"{group}: " + ", ".join(f"{name} {value}" for name, value in numbers.items())
    yield ""
    table = [("cache", *_COLUMNS), *(_row(cache) for cache in found.caches)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *cells in table:
        rest = "  ".join(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))
        yield f"{name.ljust(widths[0])}  {rest}"


def _row(cache: CacheStatistics) -> tuple[str, ...]:
    return (cache.name, *(str(getattr(cache, column)) for column in _COLUMNS))
