# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of the locker share: pairs of sockets, a running locker, and foreign lock holders."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from locker.aio import AsyncChannel
from locker.client import Locker
from locker.messages import CODEC
from locker.start import start_helper

# Locks as the C++ daemon does: a POSIX lock on the whole file, stale if it has content. Says
# "locked" when it has it, waits for a line, deletes the file if told to, and ends.
HOLDER = """
import fcntl, os, sys
path, shared = sys.argv[1], sys.argv[2] == "shared"
while True:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.lockf(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    if os.fstat(fd).st_size == 0:
        break
    os.close(fd)
print("locked", flush=True)
if sys.stdin.readline() == "delete\\n":
    os.unlink(path)
    os.write(fd, b"d")
"""


class ForeignHolder:
    """Another process that has, or waits for, a POSIX lock on a file."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        mode = "shared" if shared else "exclusive"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", HOLDER, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def wait_until_locked(self) -> None:
        """Block until it has the lock."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"locked\n"

    def release(self, *, delete: bool = False) -> None:
        """Have it release the lock, and wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"delete\n" if delete else b"release\n")
        self.process.stdin.flush()
        assert self.process.wait() == 0

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        with self.process:
            pass


HoldElsewhere = Callable[..., ForeignHolder]


@pytest.fixture
def start_elsewhere() -> Iterator[HoldElsewhere]:
    """Give a function that has another process lock a file; it need not have it on return."""
    with contextlib.ExitStack() as stack:

        def start(path: Path, *, shared: bool = False) -> ForeignHolder:
            holder = ForeignHolder(path, shared=shared)
            stack.callback(holder.close)
            return holder

        yield start


@pytest.fixture
def hold_elsewhere(start_elsewhere: HoldElsewhere) -> HoldElsewhere:
    """Give a function that has another process lock a file, and waits until it has."""

    def hold(path: Path, *, shared: bool = False) -> ForeignHolder:
        holder = start_elsewhere(path, shared=shared)
        holder.wait_until_locked()
        return holder

    return hold


@pytest.fixture
def seqpacket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two connected sockets."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with first, second:
        yield first, second


async def exit_code(pid: int) -> int:
    """Wait for the end of a child and give its exit code."""
    _, status = await trio.to_thread.run_sync(os.waitpid, pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture
async def locker() -> AsyncIterator[Locker]:
    """Give a client whose locker is a process of its own; nothing may be held at the end."""
    helper = start_helper("locker")
    client = Locker(AsyncChannel(helper.socket, CODEC))
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client
        statistics = client.statistics()
        nursery.cancel_scope.cancel()
    assert await exit_code(helper.pid) == 0
    assert statistics.held == 0
