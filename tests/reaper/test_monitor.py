# SPDX-License-Identifier: GPL-3.0-or-later
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import prctl
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from reaper.monitor import ProcessMonitor
from reaper.process import Process

if TYPE_CHECKING:
    from tests.reaper.conftest import Breeder

WALL = 0x40000000
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]

pytestmark = pytest.mark.usefixtures("no_leaks")


def start(*command: str) -> int:
    """Start a program as a child."""
    return os.posix_spawn(command[0], list(command), {})


def start_until_told(*command: str) -> tuple[int, Callable[[], None]]:
    """Start a child that reads descriptor 3 to its end; give its pid, and what ends that."""
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, reading, 3)]
    command = command or ("/bin/cat", "/dev/fd/3")
    pid = os.posix_spawn(command[0], list(command), {}, file_actions=actions)
    os.close(reading)
    return pid, lambda: os.close(writing)


def wait_until_ended(pid: int) -> None:
    """Block until a child has ended, and leave it to be reaped."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | WALL)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until a condition holds."""
    with trio.fail_after(60):
        while not condition():
            await trio.lowlevel.checkpoint()


def count_descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


async def test_a_registered_child_completes_with_its_status(monitor: ProcessMonitor) -> None:
    """Its exit code, or the signal that ended it, and what it used."""
    failing = monitor.register(start("/bin/sh", "-c", "exit 7"))
    killed = monitor.register(start("/bin/sh", "-c", "kill -TERM $$"))
    status = await failing.wait()
    assert (status.code, status.signal) == (7, None)
    assert status.rusage.ru_maxrss > 0
    status = await killed.wait()
    assert (status.code, status.signal) == (None, signal.SIGTERM)


async def test_any_number_of_tasks_may_wait(monitor: ProcessMonitor) -> None:
    """At the same time, and again afterwards."""
    pid, end = start_until_told()
    process = monitor.register(pid)
    assert process.status is None
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(process.wait)
        end()
    assert await process.wait() is process.status


async def test_a_child_may_end_before_it_is_registered(monitor: ProcessMonitor) -> None:
    """As long as it is expected, its status is kept."""
    with monitor.expecting():
        pid = start("/bin/sh", "-c", "exit 3")
        await until(lambda: monitor.statistics().unclaimed == 1)
        process = monitor.register(pid)
    assert process.status is not None
    assert (await process.wait()).code == 3
    assert monitor.statistics().orphans == 0


async def test_what_is_not_registered_in_time_is_an_orphan(monitor: ProcessMonitor) -> None:
    """Its status is kept no longer than somebody expects a child."""
    with monitor.expecting():
        with monitor.expecting():
            start("/bin/true")
            await until(lambda: monitor.statistics().unclaimed == 1)
        assert monitor.statistics().unclaimed == 1
    assert monitor.statistics().unclaimed == 0
    assert monitor.statistics().orphans == 1


async def test_unknown_children_are_reaped_and_counted(monitor: ProcessMonitor) -> None:
    """Nobody expects them, so nothing is kept."""
    start("/bin/true")
    await until(lambda: monitor.statistics().orphans == 1)
    assert monitor.statistics().reaped == 1


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Undo that this process is a subreaper."""
    yield
    prctl.set_child_subreaper(False)


@pytest.mark.usefixtures("subreaper")
async def test_inherited_orphans_are_reaped(monitor: ProcessMonitor) -> None:
    """What a child leaves behind becomes ours, and goes."""
    monitor.become_subreaper()
    pid, end = start_until_told("/bin/sh", "-c", "for i in 1 2 3 4 5; do cat <&3 & done")
    await monitor.register(pid).wait()
    assert monitor.statistics().orphans == 0
    end()
    await until(lambda: monitor.statistics().orphans == 5)


async def test_children_that_ended_before_the_monitor_ran_are_found(
    autojump_clock: None,  # noqa: ARG001 - no time passes in this test
) -> None:
    """Their SIGCHLD came when nobody listened."""
    monitor = ProcessMonitor()
    process = monitor.register(start("/bin/true"))
    wait_until_ended(process.pid)
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        assert (await process.wait()).succeeded
        nursery.cancel_scope.cancel()


async def test_children_of_a_clone_without_signal_are_found(monitor: ProcessMonitor) -> None:
    """The next SIGCHLD has them reaped, although they send none themselves."""
    process = monitor.register(clone_silently())
    wait_until_ended(process.pid)
    await wait_all_tasks_blocked()
    assert process.status is None
    await monitor.register(start("/bin/true")).wait()
    assert (await process.wait()).code == 9


def clone_silently() -> int:
    """Make a child that sends no signal at its end."""
    # With the GIL held, so that no other thread can take it along into the child.
    pid: int = ctypes.PyDLL(None).syscall(CLONE, 0, None, None, None, None)
    if pid == 0:
        os._exit(9)
    return pid


async def test_a_pid_is_registered_once(monitor: ProcessMonitor) -> None:
    """A second process with the pid of a running one is a lie."""
    pid, end = start_until_told()
    process = monitor.register(pid)
    with pytest.raises(ValueError, match=f"process {pid} is registered already"):
        monitor.register(pid)
    end()
    await process.wait()


async def test_a_pidfd_tells_a_new_process_from_an_old_one_of_the_same_pid(
    monitor: ProcessMonitor,
) -> None:
    """A kept status is not given to a process that still runs, or is not reaped yet."""
    pid, end = start_until_told()
    with monitor.expecting():
        other = start("/bin/sh", "-c", "exit 5")
        await until(lambda: monitor.statistics().unclaimed == 1)
        # As if `other` had had the pid before.
        monitor._unclaimed[pid] = monitor._unclaimed.pop(other)
        process = monitor.register(pid, os.pidfd_open(pid))
        assert process.status is None
        end()
        assert (await process.wait()).code == 0
    assert monitor.statistics().orphans == 1


async def test_a_pidfd_is_closed_with_the_process(monitor: ProcessMonitor) -> None:
    """Whether it ends before or after it is registered."""
    before = count_descriptors()
    pid, end = start_until_told()
    process = monitor.register(pid, os.pidfd_open(pid))
    end()
    await process.wait()
    with monitor.expecting():
        pid, end = start_until_told()
        pidfd = os.pidfd_open(pid)
        end()
        await until(lambda: monitor.statistics().unclaimed == 1)
        process = monitor.register(pid, pidfd)
        assert (await process.wait()).code == 0
    assert count_descriptors() == before


async def breed(monitor: ProcessMonitor, breeder: "Breeder", count: int) -> None:
    """Have many children made that end at once; register each when its pid is known."""
    helper = monitor.register(breeder.process.pid)
    processes: list[Process] = []

    def read_pids(number: int) -> list[int]:
        return [breeder.read_pid() for _ in range(number)]

    for batch in range(count // 500):
        with monitor.expecting():
            breeder.ask(500, batch % 100)
            for _ in range(20):
                pids = await trio.to_thread.run_sync(read_pids, 25)
                processes += [monitor.register(pid) for pid in pids]
        codes = {(await process.wait()).code for process in processes[batch * 500 :]}
        assert codes == {batch % 100}
    statistics = monitor.statistics()
    assert (statistics.reaped, statistics.orphans, statistics.running) == (count, 0, 1)
    breeder.close_input()
    await helper.wait()


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.slow)])
async def test_thousands_of_children_that_end_at_once_are_told_apart(
    monitor: ProcessMonitor, breeder: "Breeder", count: int
) -> None:
    """Before registration or after, none is lost and none mistaken; descriptors stay flat."""
    before = count_descriptors()
    await breed(monitor, breeder, count)
    assert count_descriptors() <= before


async def test_a_flood_of_ends_does_not_keep_the_loop(
    monitor: ProcessMonitor, breeder: "Breeder"
) -> None:
    """Other tasks get their turn while hundreds of children are reaped."""
    helper = monitor.register(breeder.process.pid)
    breeder.ask(1000)
    pids = [breeder.read_pid() for _ in range(1000)]
    for pid in pids:
        wait_until_ended(pid)
    seen: set[int] = set()

    def all_reaped() -> bool:
        seen.add(monitor.statistics().reaped)
        return 1000 in seen

    await until(all_reaped)
    assert len(seen) > 5
    breeder.close_input()
    await helper.wait()
