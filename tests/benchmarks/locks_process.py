# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that takes many locks as the daemon does; `measures.locks` runs it.

Run with a directory and a count. Each line of standard input has it take that many locks
and release them; it answers with the seconds that the taking took, and with the numbers
of its descriptors before, during and after.
"""

import json
import sys
import time

import trio

from locker.aio import AsyncChannel
from locker.client import Locker
from locker.messages import CODEC
from locker.pathlocks import PathLocks
from locker.start import StartedHelper, start_helper
from tests.benchmarks.processes import descriptors


async def serve(helper: StartedHelper, paths: list[str]) -> None:
    """Take all the locks whenever a line comes."""
    locker = Locker(AsyncChannel(helper.socket, CODEC))
    locks = PathLocks(locker)
    async with trio.open_nursery() as nursery:
        await nursery.start(locker.run)
        for _ in sys.stdin:
            print(json.dumps(await _take(locks, paths)), flush=True)  # noqa: T201 - the answer
        nursery.cancel_scope.cancel()
    locker.close()


async def _take(locks: PathLocks, paths: list[str]) -> dict[str, object]:
    before = descriptors(0)
    started = time.perf_counter()
    async with locks.hold(paths):
        seconds = time.perf_counter() - started
        during = descriptors(0)
    return {"seconds": seconds, "descriptors": [before, during, descriptors(0)]}


if __name__ == "__main__":
    items = [f"{sys.argv[1]}/{number}" for number in range(int(sys.argv[2]))]
    trio.run(serve, start_helper("locker"), items)
