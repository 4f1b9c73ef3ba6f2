# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of the reaper share: a running monitor, and a helper that makes children for us."""

import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from reaper.monitor import ProcessMonitor

# Makes children of its parent, as the spawner does: reads a number of children and an exit
# code, makes these by clone with CLONE_PARENT, and tells their pids.
BREEDER = """
import ctypes, os, platform, signal, struct, sys
CLONE_PARENT = 0x8000
number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
syscall = ctypes.CDLL(None).syscall
while request := os.read(0, 8):
    count, code = struct.unpack("ii", request)
    for _ in range(count):
        pid = syscall(number, CLONE_PARENT | signal.SIGCHLD, None, None, None, None)
        if pid == 0:
            os._exit(code)
        os.write(1, struct.pack("i", pid))
"""


class Breeder:
    """A helper whose children are ours."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", BREEDER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, count: int, code: int = 0) -> None:
        """Ask for children that exit at once."""
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), struct.pack("ii", count, code))

    def read_pid(self) -> int:
        """Wait for the pid of the next child."""
        assert self.process.stdout is not None
        pid: int = struct.unpack("i", os.read(self.process.stdout.fileno(), 4))[0]
        return pid

    def close_input(self) -> None:
        """Have it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        """Close the pipes; the monitor has reaped it, which Popen cannot know."""
        self.close_input()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.returncode = 0


@pytest.fixture
def breeder() -> Iterator[Breeder]:
    """Give a helper that makes children of this process."""
    breeder = Breeder()
    yield breeder
    breeder.close()


@pytest.fixture
async def monitor() -> AsyncIterator[ProcessMonitor]:
    """Give a monitor that runs; at the end it must know of no child."""
    monitor = ProcessMonitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        yield monitor
        nursery.cancel_scope.cancel()
    statistics = monitor.statistics()
    assert (statistics.running, statistics.unclaimed, statistics.expecting) == (0, 0, 0)
