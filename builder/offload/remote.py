# SPDX-License-Identifier: GPL-3.0-or-later
"""A build that a hook accepted: handed over, listened to, and judged by what it brought back.

The locks of the outputs are held meanwhile. The hook knows, and registers what it
brings without locks of its own. Entry point: `RemoteBuild`.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import trio

from builder.attempt import describe_exit
from builder.errors import PERMANENT_FAILURE, TIMED_OUT, RemoteBuildError
from builder.events import BuildLog, BuildStarted, FailureKind
from builder.logfile import LogFile
from builder.offload.hooks import Hook
from builder.offload.protocol import item_lines
from builder.scheduling.jobs import Job, JobState
from builder.watch import Limits, Watch
from reaper.process import ExitStatus
from store.paths import StorePath


@dataclass(frozen=True, slots=True)
class RemoteBuild:
    """What one such build needs.

    Attributes:
        job: For whom.
        hook: The one that accepted; whoever made this ends it.
        log: Where the builder's output goes; None to keep none.
        limits: What the builder may do, wherever it runs.
    """

    job: Job
    hook: Hook
    log: LogFile | None
    limits: Limits

    async def run(self, inputs: Iterable[StorePath], outputs: Iterable[StorePath]) -> ExitStatus:
        """Have the hook build and bring the outputs; return how it ended.

        Raises:
            BuildError: The builder broke a limit.
        """
        self._announce()
        agent = self.hook.agent
        replies = agent.replies.fileno()
        watch = Watch(f"building of `{self.job.path}'", replies, self.limits, self._log)

        async def until_exit(done: trio.CancelScope) -> None:
            await watch.until(agent.process.wait)
            done.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_exit, nursery.cancel_scope)
                nursery.start_soon(self._hand_over, item_lines(inputs, outputs))
                nursery.start_soon(self._follow_hook, watch)
                nursery.start_soon(watch.follow)
        except ExceptionGroup as group:
            # Several tasks may see a limit broken; one error is enough.
            raise group.exceptions[0] from None
        await watch.drain()
        await self._drain_hook()
        return await agent.process.wait()

    def _announce(self) -> None:
        job = self.job
        log_file = self.log.path if self.log else ""
        pid = self.hook.agent.process.pid
        job.started = BuildStarted(job.path, job.derivation.system, log_file, pid)
        job.proceed(JobState.OFFLOADED)
        job.audience.tell(job.started)

    async def _hand_over(self, lines: bytes) -> None:
        try:
            await self.hook.agent.requests.send_all(lines)
        except trio.BrokenResourceError:
            return  # it ended; its exit status tells why
        await self.hook.agent.requests.aclose()

    async def _follow_hook(self, watch: Watch) -> None:
        data = self.hook.rest()
        while True:
            if data:
                watch.heard()
                await self._tell(data)
            data = await self.hook.agent.output.receive_some(4096)
            if not data:
                return

    async def _drain_hook(self) -> None:
        fd = self.hook.agent.output.fileno()
        read = partial(os.read, fd, 65536)
        try:
            while data := read():
                await self._tell(data)
        except BlockingIOError:
            return  # what the hook left running still holds the other end; nobody waits for that

    async def _log(self, data: bytes) -> None:
        if self.log is not None:
            await self.log.write(data)
        await self._tell(data)

    async def _tell(self, data: bytes) -> None:
        pid = self.hook.agent.process.pid
        await self.job.audience.tell_log(BuildLog(self.job.path, pid, data))


def check_remote_exit(job: Job, status: ExitStatus, *, disk_full: bool) -> None:
    """Raise an error unless a hook exited with success.

    Raises:
        RemoteBuildError: As its exit code says: the build failed, or took too long, or
            something else went wrong that another try may not meet.
    """
    if status.succeeded:
        return
    match status.code:
        case code if code == TIMED_OUT:
            kind = FailureKind.TIMED_OUT
        case code if code == PERMANENT_FAILURE:
            transient = job.derivation.is_fixed_output or disk_full
            kind = FailureKind.TRANSIENT if transient else FailureKind.PERMANENT
        case _:
            kind = FailureKind.HOOK
    message = f"builder for `{job.path}' {describe_exit(status)}"
    raise RemoteBuildError(message, kind, _wait_status(status))


def check_remote_outputs(job: Job, status: ExitStatus, absent: Iterable[StorePath]) -> None:
    """Raise an error if outputs are not valid after a hook exited with success.

    Raises:
        RemoteBuildError: Names the first.
    """
    for path in absent:
        message = f"builder for `{job.path}' failed to produce output path `{path}'"
        raise RemoteBuildError(message, FailureKind.HOOK, _wait_status(status))


def _wait_status(status: ExitStatus) -> int:
    return (status.code or 0) << 8 | (status.signal or 0)
