# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon attempts` and `storedaemon flaky`: how builds went."""

import time
from argparse import Namespace
from collections.abc import Iterator

import trio

from builder.retries.policy import TERMS
from builder.retries.records import Attempt, Flaky
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.progress import printable
from storedaemon.cli.session import connected
from storedaemon.wire.native.attempts import attempt_map, flaky_map

_MIB = 1024 * 1024


def run(options: Namespace) -> int:
    """Run one of the commands; give the exit code."""
    return trio.run(_attempts if options.command == "attempts" else _flaky, options)


async def _attempts(options: Namespace) -> int:
    async with connected(options) as client:
        attempts = await client.attempts(options.drv)
    if options.json:
        print_json(list(map(attempt_map, attempts)))
    else:
        print_lines(line for each in attempts for line in attempt_lines(each))
    return Exit.OK


def attempt_lines(attempt: Attempt) -> Iterator[str]:
    """Tell people of an attempt."""
    how = "succeeded" if attempt.succeeded else f"failed ({attempt.cause})"
    took = _seconds(attempt.seconds)
    yield f"{_when(attempt.started)}  attempt {attempt.number} {how} after {took}"
    if attempt.detail:
        yield f"  {printable(attempt.detail)}"
    wish = f"; it was to run {TERMS[attempt.quiet.word]}" if attempt.quiet else ""
    beside = f"up to {_times(attempt.beside, 'other build')}" if attempt.beside else "nothing"
    yield f"  {beside} ran beside it{wish}"
    yield (
        f"  load {attempt.load_before:g} to {attempt.load_after:g}, memory available"
        f" {attempt.memory_before / _MIB:.0f} to {attempt.memory_after / _MIB:.0f} MiB"
    )
    yield (
        f"  used {_seconds(attempt.cpu_seconds)} of processor time"
        f" and up to {attempt.peak_memory / _MIB:.0f} MiB"
    )
    if attempt.log_file:
        yield f"  log {attempt.log_file}"


async def _flaky(options: Namespace) -> int:
    async with connected(options) as client:
        found = await client.flaky()
    if options.json:
        print_json(list(map(flaky_map, found)))
    else:
        print_lines(map(flaky_line, found))
    return Exit.OK


def flaky_line(flaky: Flaky) -> str:
    """Tell people of what passes only when it is quiet."""
    return (
        f"{flaky.name}: {_times(flaky.failures, 'failure')} before"
        f" {_times(flaky.passes, 'success', 'successes')}, the last one"
        f" {TERMS[flaky.quiet.word]}, {_when(flaky.last)}"
    )


def _times(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
