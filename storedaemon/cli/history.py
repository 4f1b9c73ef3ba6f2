# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon attempts` and `storedaemon flaky`: how builds went."""

import time
from argparse import Namespace
from collections.abc import Iterator

import trio

from builder.retries.policy import TERMS
from builder.retries.records import Attempt, Flaky
from storedaemon.cli.exits import Exit
from storedaemon.cli.progress import printable
from storedaemon.cli.queries import print_json, print_lines
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
        print_lines(line for each in attempts for line in _attempt_lines(each))
    return Exit.OK


def _attempt_lines(attempt: Attempt) -> Iterator[str]:
    how = "succeeded" if attempt.succeeded else f"failed ({attempt.cause})"
    yield f"{_when(attempt.started)}  attempt {attempt.number} {how} after {attempt.seconds:.1f} s"
    if attempt.detail:
        yield f"  {printable(attempt.detail)}"
    wish = f", wanted {TERMS[attempt.quiet.word]}" if attempt.quiet else ""
    yield f"  up to {attempt.beside} other builds ran beside it{wish}"
    yield (
        f"  load {attempt.load_before:g} to {attempt.load_after:g}, memory available"
        f" {attempt.memory_before / _MIB:.0f} to {attempt.memory_after / _MIB:.0f} MiB"
    )
    yield (
        f"  used {attempt.cpu_seconds:.1f} s of processor time"
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
        print_lines(map(_flaky_line, found))
    return Exit.OK


def _flaky_line(flaky: Flaky) -> str:
    return (
        f"{flaky.name}: {_times(flaky.failures, 'failure')} before"
        f" {_times(flaky.passes, 'success', 'successes')}, the last one"
        f" {TERMS[flaky.quiet.word]}, {_when(flaky.last)}"
    )


def _times(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
