# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending the processes of a build user, with real processes."""

import os
import signal
import sys

import pytest
import trio

from builder.errors import BuildError
from builder.eviction import end_processes
from builder.users import BuildUser
from reaper.monitor import ProcessMonitor
from reaper.process import Process

VICTIM = BuildUser("victim", 64321, 64321, ())
OTHER = BuildUser("other", 64322, 64322, ())

_BECOME_AND_WAIT = """
import os, signal, sys
os.setuid(int(sys.argv[1]))
os.write(1, b".")
signal.pause()
"""


@pytest.mark.root
@pytest.mark.usefixtures("no_leaks")
async def test_all_processes_of_the_user_end_and_no_others():
    """What ran as the user is killed; another user's process and our own go on."""
    monitor = ProcessMonitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        victims = [_start_as(monitor, VICTIM) for _ in range(3)]
        other = _start_as(monitor, OTHER)
        await end_processes(monitor, VICTIM)
        with trio.fail_after(5):
            statuses = [await process.wait() for process in victims]
        assert [status.signal for status in statuses] == [signal.SIGKILL] * 3
        assert other.status is None
        # Where there is nothing to end, that is no error.
        await end_processes(monitor, VICTIM)
        other.kill()
        await other.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.root
async def test_a_failure_is_an_error_that_names_the_user():
    """A number that no user can have is refused by the kernel, and that is told."""
    monitor = ProcessMonitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        with pytest.raises(BuildError, match="build user `nobody-at-all': the attempt exited"):
            await end_processes(monitor, BuildUser("nobody-at-all", 2**32 + 5, 0, ()))
        nursery.cancel_scope.cancel()


def _start_as(monitor: ProcessMonitor, user: BuildUser) -> Process:
    """Start a process that becomes the user and waits; return once it has become the user."""
    reader, writer = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", _BECOME_AND_WAIT, str(user.uid)],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
    )
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    return monitor.register(pid)
