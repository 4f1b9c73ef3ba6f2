# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of a builder: spawned, listened to, waited for, and ended if need be.

What it leaves on disk is for others to judge; here it only counts how it exited.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import trio

from builder.admission.usage import Usage
from builder.container import Container
from builder.errors import BuildError
from builder.events import BuildLog, BuildStarted, FailureKind
from builder.logfile import LogFile
from builder.memory.meters import Meter, Meters
from builder.network import Network
from builder.retries.policy import Quiet
from builder.scheduling.jobs import Job, JobState
from builder.spawner.client import SetupError, SpawnedProcess, Spawner
from builder.uplink import connected, gated
from builder.watch import Limits, Watch
from reaper.process import ExitStatus, Process


@dataclass(slots=True, eq=False)
class Attempt:
    """One run, and what it needs.

    Attributes:
        job: For whom.
        container: What is run.
        network: What network is brought into it.
        store: The store, where the program may lie that brings it.
        open_log: Creates the log, or gives None to keep none; called when the builder runs,
            which it does meanwhile.
        limits: What the builder may do.
        meters: Measure it.
        log: Where the output goes; the caller's to close.
    """

    job: Job
    container: Container
    network: Network
    store: str
    open_log: Callable[[], LogFile | None]
    limits: Limits
    meters: Meters
    log: LogFile | None = field(default=None, init=False)

    async def run(self, spawner: Spawner) -> ExitStatus:
        """Run the builder to its end.

        None of its processes is left when this returns or raises, as far as the
        container knows them.

        Raises:
            SpawnError: The container could not be set up, or the builder not executed.
            BuildError: The builder broke a limit, or has not got its network.
        """
        with _pipe() as (output, end), gated(self.container, self.network, self.store) as gate:
            try:
                inner = gate.inner if gate else None
                spawned = await spawner.spawn(self.container, stdout_fd=end, more_fd=inner)
            finally:
                os.close(end)
            limited = self.job.quiet is not Quiet.ALONE
            with self.meters.measured(spawned.process.pid, limited=limited) as meter:
                try:
                    self.job.meter = meter
                    async with connected(gate, spawner, spawned, self.job.path):
                        await self._set_up(spawned)
                        self._announce(spawned.process.pid)
                        return await self._watch(spawned, output)
                finally:
                    spawned.setup.close()
                    await self._end(spawned, meter)

    async def _set_up(self, spawned: SpawnedProcess) -> None:
        try:
            await spawned.setup
        except SetupError as error:
            error.pid = spawned.process.pid
            raise

    async def tell_unexecuted(self, pid: int, reason: str) -> None:
        """Let a builder that could not be executed seem to have run, and to have said why.

        Guix's clients see that from the C++ daemon, and look for the reason in the log.
        """
        self._announce(pid)
        text = f"while setting up the child process: in phase exec: {reason}\n"
        await self._pass_on(pid, text.encode("utf-8", "surrogateescape"))

    async def _pass_on(self, pid: int, data: bytes) -> None:
        if self.log is not None:
            await self.log.write(data)
        await self.job.audience.tell_log(BuildLog(self.job.path, pid, data))

    def _announce(self, pid: int) -> None:
        job = self.job
        self.log = self.open_log()
        log_file = self.log.path if self.log else ""
        job.started = BuildStarted(job.path, job.derivation.system, log_file, pid)
        job.proceed(JobState.BUILDING)
        job.audience.tell(job.started)

    async def _watch(self, spawned: SpawnedProcess, output: int) -> ExitStatus:
        pass_on = partial(self._pass_on, spawned.process.pid)
        watch = Watch(f"building of `{self.job.path}'", output, self.limits, pass_on)
        if self.container.isolated:
            await watch.follow()
            if self.log is not None:
                await self.log.close()  # while the kernel takes the container apart
        else:
            await _follow_leader(watch, spawned)
        if spawned.process.status is None:
            await watch.until(spawned.process.wait)
        return await spawned.process.wait()

    async def _end(self, spawned: SpawnedProcess, meter: Meter) -> None:
        spawned.process.kill()
        if not self.container.isolated:
            _kill_group(spawned.process.pid)
        status = await _certain_end(spawned.process)
        meter.count_kills()
        self.job.usage = Usage.of_process(status.rusage, meter)


async def _certain_end(process: Process) -> ExitStatus:
    """Wait for a process that was killed, even when cancelled."""
    if process.status is None:
        with trio.CancelScope(shield=True):
            await process.wait()
    return await process.wait()


async def _follow_leader(watch: Watch, spawned: SpawnedProcess) -> None:
    """Follow a builder whose children may outlive it and hold the pipe; they are ended with it."""

    async def until_exit(done: trio.CancelScope) -> None:
        await watch.until(spawned.process.wait)
        _kill_group(spawned.process.pid)
        done.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_exit, nursery.cancel_scope)
            await watch.follow()
    except ExceptionGroup as group:
        # Either task may be the one that sees a limit broken; one error is enough.
        raise group.exceptions[0] from None
    await watch.drain()


def _kill_group(leader: int) -> None:
    # The builder is the leader of a session and group of its own.
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """Make a pipe whose read end does not block; the write end is the caller's to close."""
    output, end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(output, False)
    try:
        yield output, end
    finally:
        os.close(output)


def describe_exit(status: ExitStatus) -> str:
    """Say how a builder ended, in the words that clients know."""
    if status.signal is not None:
        name = signal.strsignal(status.signal)
        return f"failed due to signal {status.signal} ({name})"
    return f"failed with exit code {status.code}"


def failed_exit(job: Job, status: ExitStatus, *, disk_full: bool) -> BuildError:
    """Make the error of a builder that has not exited with success."""
    transient = job.derivation.is_fixed_output or disk_full
    return BuildError(
        f"builder for `{job.path}' {describe_exit(status)}",
        FailureKind.TRANSIENT if transient else FailureKind.PERMANENT,
        signal=status.signal,
    )
