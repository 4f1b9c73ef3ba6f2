# SPDX-License-Identifier: GPL-3.0-or-later
import os
import resource
import signal

import pytest

from reaper.monitor import ProcessMonitor
from reaper.process import ExitStatus

pytestmark = pytest.mark.usefixtures("no_leaks")

USAGE = resource.getrusage(resource.RUSAGE_SELF)


def start_waiting() -> int:
    """Start a child that ends by signals alone."""
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, writing, 4)]
    pid = os.posix_spawn("/bin/cat", ["cat"], {}, file_actions=actions)
    os.close(reading)
    os.close(writing)
    return pid


def wait_until_ended(pid: int) -> None:
    """Block until a child has ended, and leave it to be reaped."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("with_pidfd", [False, True])
async def test_a_signal_reaches_a_running_process(
    monitor: ProcessMonitor, *, with_pidfd: bool
) -> None:
    """With a pidfd and without; and after the end there is nothing to signal."""
    pid = start_waiting()
    process = monitor.register(pid, os.pidfd_open(pid) if with_pidfd else None)
    assert process.send_signal(signal.SIGUSR1)
    assert (await process.wait()).signal == signal.SIGUSR1
    assert not process.send_signal(signal.SIGUSR1)
    assert not process.kill()


async def test_a_process_that_is_not_reaped_yet_can_be_signalled_in_vain(
    monitor: ProcessMonitor,
) -> None:
    """Its pid is still its own, so the signal hits nobody else."""
    pid = start_waiting()
    process = monitor.register(pid, os.pidfd_open(pid))
    assert process.kill()
    wait_until_ended(pid)
    assert process.kill()
    assert (await process.wait()).signal == signal.SIGKILL


def test_an_exit_status_describes_itself() -> None:
    """In words that go after the name of a process."""
    exited = ExitStatus.from_wait(3 << 8, USAGE)
    assert (exited.code, exited.signal, exited.succeeded) == (3, None, False)
    assert exited.describe() == "exited with code 3"
    killed = ExitStatus.from_wait(int(signal.SIGKILL), USAGE)
    assert (killed.code, killed.signal, killed.succeeded) == (None, 9, False)
    assert killed.describe() == "was ended by signal 9 (Killed)"
    dumped = ExitStatus.from_wait(int(signal.SIGSEGV) | 0x80, USAGE)
    assert dumped.signal == signal.SIGSEGV
    assert ExitStatus.from_wait(0, USAGE).succeeded


async def test_a_process_shows_what_it_is(monitor: ProcessMonitor) -> None:
    """In logs and at the prompt."""
    pid = start_waiting()
    process = monitor.register(pid)
    assert repr(process) == f"<Process {pid}: running>"
    process.kill()
    await process.wait()
    assert repr(process) == f"<Process {pid}: was ended by signal 9 (Killed)>"
