# SPDX-License-Identifier: GPL-3.0-or-later
"""What processes use of memory and descriptors, as the kernel counts it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GONE = (FileNotFoundError, ProcessLookupError)


def tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it, through whichever of its threads."""
    yield pid
    with suppress(*GONE):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(*GONE):
                for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                    yield from tree(int(child))


def proportional(pid: int) -> int:
    """Bytes of memory of a process and its descendants, shared pages counted in shares."""
    return sum(_field(each, "smaps_rollup", "Pss:") for each in tree(pid))


def resident(pid: int) -> int:
    """Bytes that are resident in each of a process and its descendants, added up."""
    return sum(_field(each, "status", "VmRSS:") for each in tree(pid))


def peak(pid: int) -> int:
    """The most bytes that were resident in each since `forget_peak`, added up."""
    return sum(_field(each, "status", "VmHWM:") for each in tree(pid))


def forget_peak(pid: int) -> None:
    """Let what is resident now be the peak so far."""
    for each in tree(pid):
        with suppress(*GONE):
            Path(f"/proc/{each}/clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    """How many descriptors a process has open; 0 is this one."""
    return len(os.listdir(f"/proc/{pid or 'self'}/fd"))


def _field(pid: int, file: str, name: str) -> int:
    with suppress(*GONE):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
