# SPDX-License-Identifier: GPL-3.0-or-later
"""Trying jobs again that failed, and recording each attempt.

A failed attempt gives back its slot and its locks; while a job waits for the quiet
that its next attempt needs, everything else goes on, and what another process makes
meanwhile is taken. Followers hear of each attempt, and of one failure at the end.
Entry point: `Retrier`.
"""

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import count

import structlog
import trio

from builder.admission.machine import MachineReader, MachineState
from builder.admission.usage import Usage
from builder.errors import BuildError
from builder.events import BuildRetried, FailureKind
from builder.logfile import set_aside
from builder.options import BuildMode, BuildOptions
from builder.retries.attributes import settings_of
from builder.retries.history import History
from builder.retries.policy import Cause, Ended, Quiet, decide
from builder.retries.records import Attempt
from builder.scheduling.jobs import Job, JobState
from builder.scheduling.scheduler import Realiser

log = structlog.get_logger("builder")

_CAUSES = {FailureKind.TIMED_OUT: Cause.TIMEOUT, FailureKind.SILENT: Cause.SILENCE}
_OF_BUILDER = (FailureKind.PERMANENT, FailureKind.TRANSIENT)
_SIGKILL = 9
_UNUSED = Usage(0, 0.0)


class Retrier:
    """Passes jobs on to a realiser, as often as it takes and is allowed.

    Args:
        inner: Makes one attempt; sets `Job.admitted` when it starts.
        history: Remembers attempts.
        machine: Looks at the machine.
        give_up: Awaited with a job and its error when there is no further attempt.
    """

    def __init__(
        self,
        inner: Realiser,
        history: History,
        machine: MachineReader,
        give_up: Callable[[Job, BuildError], Awaitable[None]],
    ) -> None:
        self._inner = inner
        self._history = history
        self._machine = machine
        self._give_up = give_up

    def wanting(self, options: BuildOptions) -> AbstractContextManager[None]:
        """Pass on how many builds at once a request asks for."""
        return self._inner.wanting(options)

    async def realise(self, job: Job) -> None:
        """Realise a job, in several attempts if need be.

        Raises:
            BuildError: The last attempt failed, or a derivation's attributes are wrong.
        """
        first, settings = settings_of(job.derivation, job.options.retries)
        if settings is not job.options.retries:
            job.options = replace(job.options, retries=settings)
        name = job.name
        job.foresee_memory = partial(self._history.peak_of_name, name)
        if settings.attempts > 1:
            job.quiet = max(first, self._history.quiet_of_name(name))
        for job.attempt in count(1):
            try:
                await self._attempt(job)
            except BuildError as error:
                quiet = self._next(job, error)
                if quiet is None:
                    await self._give_up(job, error)
                    raise
                await self._prepare(job, error, quiet)
            else:
                return

    async def _attempt(self, job: Job) -> None:
        job.started = job.admitted = job.meter = job.usage = None
        job.retried = lambda error: self._next(job, error) is not None
        try:
            await self._inner.realise(job)
        except BuildError as error:
            self._record(job, self._cause(job, error), error.message)
            raise
        self._record(job, Cause.SUCCESS, "")

    def _next(self, job: Job, error: BuildError) -> Quiet | None:
        if job.started is None or job.admitted is None or job.key.mode is BuildMode.CHECK:
            return None
        cause, beside = self._cause(job, error), job.admitted.slot.beside
        limited = cause is Cause.MEMORY and job.usage is not None and job.usage.is_limited
        return decide(job.options.retries, Ended(job.attempt, cause, job.quiet, beside, limited))

    def _cause(self, job: Job, error: BuildError) -> Cause:
        if error.kind not in _OF_BUILDER:
            return _CAUSES.get(error.kind, Cause.OTHER)
        if job.usage is not None and job.usage.oom_kills:
            return Cause.MEMORY
        if error.signal is None:
            return Cause.EXIT
        before = job.admitted.machine if job.admitted else MachineState()
        killed = self._machine.state().oom_kills > before.oom_kills
        return Cause.MEMORY if killed and error.signal == _SIGKILL else Cause.SIGNAL

    async def _prepare(self, job: Job, error: BuildError, quiet: Quiet) -> None:
        """Tell of a failed attempt, and wait as long as is wished before the next."""
        settings, name = job.options.retries, ""
        if job.started is not None and job.started.log_file:
            name = await trio.to_thread.run_sync(_keep_log, job.started.log_file, job.attempt)
        cause = self._cause(job, error)
        log.info("build_retried", drv=job.path, attempt=job.attempt, cause=cause, quiet=quiet.word)
        job.audience.tell(
            BuildRetried(
                job.path,
                job.attempt,
                settings.attempts,
                cause.value,
                error.message,
                quiet.word,
                name,
            )
        )
        job.quiet = quiet
        if settings.cores:
            job.options = replace(job.options, cores=settings.cores)
        if settings.delay:
            job.wait(JobState.WAITING_TO_RETRY, "delay", f"{settings.delay:g} s after a failure")
            await trio.sleep(settings.delay)

    def _record(self, job: Job, cause: Cause, detail: str) -> None:
        if job.started is None or job.admitted is None:
            return
        admitted, usage, machine = job.admitted, job.usage or _UNUSED, self._machine.state()
        self._history.record(
            Attempt(
                drv=job.path,
                name=job.name,
                number=job.attempt,
                started=admitted.started,
                seconds=time.monotonic() - admitted.clock,
                cause=cause,
                detail=detail,
                quiet=job.quiet,
                beside=admitted.slot.beside,
                cores=job.options.cores,
                load_before=admitted.machine.load,
                load_after=machine.load,
                memory_before=admitted.machine.available_memory,
                memory_after=machine.available_memory,
                peak_memory=usage.peak_memory,
                cpu_seconds=usage.cpu_seconds,
                log_file=job.started.log_file,
            )
        )


def _keep_log(name: str, attempt: int) -> str:
    try:
        return set_aside(name, attempt)
    except OSError:
        # Somebody deleted it; the next attempt must not fail for it.
        return name if os.path.exists(name) else ""
