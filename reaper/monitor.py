# SPDX-License-Identifier: GPL-3.0-or-later
"""The process monitor: the one place where children are reaped.

SIGCHLD only tells it to look; then it reaps whatever has ended. A child may end before
anybody has heard of its pid, because a helper makes it and tells afterwards: whoever awaits
such news says so with `expecting`, and until then the status is kept. What ends unknown and
unexpected is an orphan that this process inherited as subreaper.

Nothing else in the daemon may wait for children: no `subprocess`, no `trio.run_process`.

Entry points: `ProcessMonitor.run` as a task of the daemon's nursery, then `register`.
"""

import contextlib
import dataclasses
import os
import signal
from collections import deque
from collections.abc import Iterator

import prctl
import structlog
import trio

from reaper.process import ExitStatus, Process

_WALL = 0x40000000  # <linux/wait.h>; children made by clone with another signal than SIGCHLD too
_BURST = 128
"""Children reaped in a row before other tasks get their turn; one takes a few microseconds."""

_log = structlog.get_logger("reaper")


@dataclasses.dataclass(frozen=True, slots=True)
class MonitorStatistics:
    """Counts since the start, and what is pending.

    Attributes:
        running: Processes registered and not ended.
        unclaimed: Ended children that may still be registered.
        expecting: How many `expecting` blocks are open.
        reaped: Children reaped in all.
        orphans: Of these, those nobody registered.
    """

    running: int
    unclaimed: int
    expecting: int
    reaped: int
    orphans: int


class ProcessMonitor:
    """Reaps the children of this process and completes their `Process` objects."""

    def __init__(self) -> None:
        self._running: dict[int, Process] = {}
        self._unclaimed: dict[int, deque[ExitStatus]] = {}
        self._expecting = 0
        self._reaped = 0
        self._orphans = 0

    def statistics(self) -> MonitorStatistics:
        """Give counts for status displays and tests."""
        unclaimed = sum(map(len, self._unclaimed.values()))
        return MonitorStatistics(
            len(self._running), unclaimed, self._expecting, self._reaped, self._orphans
        )

    def become_subreaper(self) -> None:
        """Have orphaned descendants become children of this process, not of init."""
        prctl.set_child_subreaper(True)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reap until cancelled; must run in the main thread, where signals arrive."""
        token = trio.lowlevel.current_trio_token()

        def look() -> None:
            if not self._reap_some():
                token.run_sync_soon(look, idempotent=True)

        def notified(_signal: int, _frame: object) -> None:
            # In a signal handler, this alone is safe. A task that is told of signals would be
            # woken by it, too, but a turn later, when a builder has ended and others wait.
            token.run_sync_soon(look, idempotent=True)

        before = signal.signal(signal.SIGCHLD, notified)
        try:
            look()
            task_status.started()
            await trio.sleep_forever()
        finally:
            signal.signal(signal.SIGCHLD, before)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce that a child may come into being that cannot be registered before it runs.

        Enter before asking for the child, leave when it is registered or will not come.
        """
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1
            if not self._expecting:
                self._give_up_unclaimed()

    def register(self, pid: int, pidfd: int | None = None) -> Process:
        """Give the object for a child, which may have ended already.

        Args:
            pid: A child of this process.
            pidfd: Its pidfd; the object owns it from here on.

        Raises:
            ValueError: Another running process has this pid, so it cannot be right.
        """
        if pid in self._running:
            raise ValueError(f"process {pid} is registered already")
        process = Process(pid, pidfd)
        status = self._claim(pid, pidfd)
        if status is None:
            self._running[pid] = process
        else:
            process.complete(status)
        return process

    def _claim(self, pid: int, pidfd: int | None) -> ExitStatus | None:
        """Take the oldest kept status of a pid, unless it must be that of an earlier owner."""
        kept = self._unclaimed.get(pid)
        if not kept:
            return None
        if pidfd is not None and not _was_reaped(pidfd):
            self._orphaned([pid] * len(self._unclaimed.pop(pid)))
            return None
        status = kept.popleft()
        if not kept:
            del self._unclaimed[pid]
        return status

    def _reap_some(self) -> bool:
        """Reap a bounded number of ended children; say whether none is left."""
        orphans: list[int] = []
        finished = False
        for _ in range(_BURST):
            ended = _wait_any()
            if ended is None:
                finished = True
                break
            self._reaped += 1
            if not self._deliver(*ended):
                orphans.append(ended[0])
        if orphans:
            self._orphaned(orphans)
        return finished

    def _deliver(self, pid: int, status: ExitStatus) -> bool:
        """Complete the process with this pid, or keep its status; False if it is an orphan."""
        process = self._running.pop(pid, None)
        if process is not None:
            process.complete(status)
        elif self._expecting:
            self._unclaimed.setdefault(pid, deque()).append(status)
        else:
            return False
        return True

    def _give_up_unclaimed(self) -> None:
        pids = [pid for pid, statuses in self._unclaimed.items() for _ in statuses]
        self._unclaimed.clear()
        if pids:
            self._orphaned(pids)

    def _orphaned(self, pids: list[int]) -> None:
        self._orphans += len(pids)
        _log.info("orphans reaped", count=len(pids), first_pids=pids[:8])


def _wait_any() -> tuple[int, ExitStatus] | None:
    """Reap one ended child, if there is one."""
    try:
        pid, status, rusage = os.wait4(-1, os.WNOHANG | _WALL)
    except ChildProcessError:
        return None
    return (pid, ExitStatus.from_wait(status, rusage)) if pid else None


def _was_reaped(pidfd: int) -> bool:
    """Tell whether the process behind a pidfd is reaped, rather than running or a zombie."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return True
    return False
