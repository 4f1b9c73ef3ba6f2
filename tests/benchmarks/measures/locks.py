# SPDX-License-Identifier: GPL-3.0-or-later
"""Many locks at once, held by a locker for a process whose own descriptors stay few."""

import fcntl
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Against, Figure, Goal, Unit
from tests.benchmarks.lab import Lab
from tests.benchmarks.rounds import take_turns, timed

LOCKS = 10_000

ROOT = Path(__file__).parents[3]

WHOLE_FILE = struct.pack("=hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def many(lab: Lab) -> Iterator[Figure]:
    """Lock the lock files of 10,000 items, which exist, in a process like the daemon."""
    directory = lab.scratch / "locks"
    directory.mkdir()
    counts: list[list[int]] = []
    module = "tests.benchmarks.locks_process"
    with subprocess.Popen(
        [sys.executable, "-m", module, str(directory), str(LOCKS)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def ours() -> float:
            requests.write("\n")
            requests.flush()
            answer = json.loads(answers.readline())
            counts.append(answer["descriptors"])
            return float(answer["seconds"])

        # Other files: what is released is not free until the locker has come to it.
        files = [f"{directory}/{number}.floor" for number in range(LOCKS)]
        series = take_turns(lab.rounds, ours, floor=lambda: timed(lambda: _lock_in_turn(files)))
        requests.close()
    shown = ", ".join(f"{before}/{during}/{after}" for before, during, after in counts[-1:])
    grown = max(during - before for before, during, _ in counts)
    left = max(after - before for before, _, after in counts)
    goals = (Goal(50e-3, Against.NOTHING),)
    notes = (
        f"descriptors before/during/after: {shown}",
        "flat" if grown <= 0 and left <= 0 else f"NOT FLAT: {grown} more during, {left} after",
    )
    name, floor_name = f"{LOCKS} locks", "open, lock, close"
    yield Figure(name, floor_name, Unit.SECONDS, series, goals, notes)


def _lock_in_turn(files: list[str]) -> None:
    for file in files:
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, WHOLE_FILE)
        os.close(fd)
