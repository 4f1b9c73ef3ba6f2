# SPDX-License-Identifier: GPL-3.0-or-later
"""The scheduler: it sees the goals of all clients, and builds each once.

A request is planned, and for each derivation that is ready it joins the job
that realises it, or starts one. Jobs run in the scheduler's own nursery and end
when nobody wants them any more; what fails is told to all who want it, and
touches nobody else.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from builder.errors import BuildError, RemoteBuildError
from builder.events import BuildEvent, BuildFailed, FailureKind
from builder.graph import Node
from builder.jobs import Job, JobKey, JobView, view
from builder.options import BuildOptions, Client
from builder.planner import Planner, Roots, parse_target
from builder.requests import Request
from locker.errors import HelperError
from store.errors import StoreError
from store.helper_errors import as_store_error
from store.paths import StoreDirectory, StorePath

log = structlog.get_logger("builder")


class Realiser(Protocol):
    """What makes the outputs of one derivation, once its inputs are there."""

    async def realise(self, job: Job) -> None:
        """Realise a job, or raise BuildError."""

    def wanting(self, options: BuildOptions) -> AbstractContextManager[None]:
        """Take into account how many builds at once a request asks for, while it lasts."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What came of a request: an error for each derivation that was not built."""

    targets: tuple[StorePath, ...]
    errors: dict[StorePath, BuildError]


class Scheduler:
    """Builds what clients want.

    Args:
        directory: The store, for reading targets.
        planner: Makes the plan of a request.
        realiser: Does the jobs.
    """

    def __init__(self, directory: StoreDirectory, planner: Planner, realiser: Realiser) -> None:
        self._directory = directory
        self._planner = planner
        self._realiser = realiser
        self._jobs: dict[JobKey, Job] = {}
        self._requests: set[Request] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run jobs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def build(
        self,
        targets: Sequence[str],
        options: BuildOptions,
        client: Client,
        roots: Roots,
        events: Callable[[BuildEvent], Awaitable[None]],
    ) -> BuildReport:
        """Have targets built, and return when all of them are valid.

        Args:
            targets: Store items, or derivations with ``!OUTPUT,…`` after them.
            options: How to build.
            client: For whom.
            roots: Keeps what is built, and what it needs, for as long as the client is there.
            events: Awaited with each event, in order. What it raises ends the request.

        Raises:
            BuildError: Some targets could not be had; the status is that of the
                gravest failure, as Guix's clients expect it.
        """
        wanted = [parse_target(text, self._directory) for text in targets]
        request = Request(client, options, self._start)
        self._requests.add(request)
        try:
            with self._realiser.wanting(options):
                request.begin(await self._planner.plan(wanted, options.mode, roots))
                async for event in request.queue:
                    await events(event)
        finally:
            request.abandon()
            self._requests.discard(request)
        return _report(request)

    def cancel(self, path: StorePath) -> bool:
        """End the jobs of a derivation for all who want it; tell whether there was one."""
        jobs = [job for job in self._jobs.values() if job.path == path]
        for job in jobs:
            job.cancelled = True
            job.scope.cancel()
        return bool(jobs)

    def in_use(self) -> set[StorePath]:
        """Return what jobs make, and what they make it from, as far as a derivation names it."""
        paths: set[StorePath] = set()
        for job in self._jobs.values():
            paths.add(job.path)
            paths.update(job.derivation.output_paths, job.derivation.input_sources)
        return paths

    def snapshot(self) -> list[JobView]:
        """Return a look at each job, the oldest first."""
        now = trio.current_time()
        return [view(job, now) for job in self._jobs.values()]

    def _start(self, request: Request, node: Node) -> Job:
        key = JobKey(node.path, node.mode)
        job = self._jobs.get(key)
        if job is None or job.scope.cancel_called:
            job = self._new_job(key, request, node)
        job.follow(request)
        return job

    def _new_job(self, key: JobKey, request: Request, node: Node) -> Job:
        assert self._nursery is not None, "the scheduler runs before anyone asks"
        assert node.derivation is not None, "only derivations that were read are ever ready"
        job = Job(key, node.derivation, request.options, trio.current_time())
        self._jobs[key] = job
        self._nursery.start_soon(self._run, job)
        return job

    async def _run(self, job: Job) -> None:
        job.error = BuildError(f"build of `{job.path}' was cancelled", FailureKind.CANCELLED)
        try:
            with job.scope:
                job.error = await self._outcome(job)
        except Exception as error:
            # One job's fault must not end the others; the log has the traceback.
            log.exception("job_crashed", drv=job.path)
            job.error = BuildError(f"internal error while building `{job.path}': {error!r}")
        job.finished = True
        if job.error is not None:
            job.audience.tell(_failure(job, job.error))
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
        for follower in tuple(job.followers):
            follower.job_finished(job)

    async def _outcome(self, job: Job) -> BuildError | None:
        try:
            await self._realiser.realise(job)
        except BuildError as error:
            return error
        except HelperError as error:
            log.warning("helper failed", drv=job.path, error=error.message)
            return BuildError(as_store_error(error).message)
        except (StoreError, OSError) as error:
            return BuildError(str(error))
        return None


def _failure(job: Job, error: BuildError) -> BuildFailed:
    if isinstance(error, RemoteBuildError):
        # Guix's clients learn from the trace of a failed hook how it ended, from others nothing.
        status = error.wait_status if error.kind is FailureKind.HOOK else 1
        return BuildFailed(job.path, error.kind, error.message, status, remote=True)
    # Guix's clients are told 0 where no builder was started, because of the derivation itself.
    status = 0 if error.kind is FailureKind.INPUT_REJECTED else 1
    return BuildFailed(job.path, error.kind, error.message, status)


def _report(request: Request) -> BuildReport:
    failed = request.failed_targets()
    if failed:
        names = ", ".join(f"`{path}'" for path in failed)
        status = max(error.status for error in request.errors.values())
        raise BuildError(f"build of {names} failed", _gravest(request.errors.values()), status)
    return BuildReport(request.targets, request.errors)


def _gravest(errors: Iterable[BuildError]) -> FailureKind:
    return max(errors, key=lambda error: error.status).kind
