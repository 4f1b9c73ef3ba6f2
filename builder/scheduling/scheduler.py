# SPDX-License-Identifier: GPL-3.0-or-later
"""The scheduler: it sees the goals of all clients, and builds or downloads each once.

A request is planned, and for each node of its plan that is ready it joins the
job that makes it, or starts one. Jobs run in the scheduler's own nursery and end
when nobody wants them any more; what fails is told to all who want it, and
touches nobody else.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog
import trio

from builder.errors import BuildError, RemoteBuildError
from builder.events import BuildEvent, BuildFailed, FailureKind, SubstituteFailed, SubstituterOutput
from builder.options import BuildMode, BuildOptions, Client
from builder.planning.graph import REVISITED, Node, turn
from builder.planning.planner import Planner
from builder.planning.request_plan import Ask, Inspection, Obtain, Plan, Roots, Target, parse_target
from builder.scheduling.audience import EventQueue, TellNow
from builder.scheduling.impatience import Impatience
from builder.scheduling.jobs import AnyJob, Download, Job, JobKey, JobView, view
from builder.scheduling.requests import Request
from builder.scheduling.watching import CourseEvent, GoalBegun, GoalEnded, Watchers
from builder.substitution.offers import Offer, Sources
from locker.errors import HelperError
from store.derivations import Derivation
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


class Substituter(Protocol):
    """What knows of substitutes, and downloads them."""

    def is_present(self) -> bool:
        """Tell whether there is a program to ask."""

    async def ask(
        self,
        paths: Collection[StorePath],
        sources: Sources,
        listen: Callable[[bytes], None],
    ) -> Mapping[StorePath, Offer]:
        """Return what is offered of some items, or raise StoreError."""

    async def substitute(self, job: Download) -> None:
        """Make an item valid, or raise BuildError."""


class Lookup(Protocol):
    """What knows where the contents of fixed outputs are."""

    async def obtain(
        self,
        drv: StorePath,
        derivation: Derivation,
        tell: Callable[[BuildEvent], object],
        *,
        keep_log: bool | None,
    ) -> bool:
        """Make a derivation's output valid if its content is known; tell whether it is."""


Inspect = Callable[[Callable[[BuildEvent], object]], Inspection]
"""Begins to look at items for a request, and tells it what its client should know."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What came of a request: an error for each derivation that was not built.

    `unavailable` are those targets, no derivations, that nobody offers.
    """

    targets: tuple[StorePath, ...]
    errors: dict[StorePath, BuildError]
    unavailable: tuple[StorePath, ...] = ()


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request would do: the derivations to build, and the items to download."""

    builds: tuple[StorePath, ...]
    downloads: tuple[Offer, ...]
    problems: Mapping[StorePath, BuildError]
    unavailable: tuple[StorePath, ...]


class Scheduler:
    """Builds what clients want.

    Args:
        directory: The store, for reading targets.
        planner: Makes the plan of a request.
        realiser: Builds.
        substituter: Downloads; None for nothing that does.
        lookup: Knows the contents of fixed outputs; None for nothing that does.
        inspect: Looks at items for a request for repairs; None to rebuild unseen.
    """

    def __init__(
        self,
        directory: StoreDirectory,
        planner: Planner,
        realiser: Realiser,
        substituter: Substituter | None = None,
        lookup: Lookup | None = None,
        inspect: Inspect | None = None,
    ) -> None:
        self._directory = directory
        self._planner = planner
        self._realiser = realiser
        self._substituter = substituter
        self._lookup = lookup
        self._inspect = inspect
        self._jobs: dict[JobKey, AnyJob] = {}
        self._requests: set[Request] = set()
        self.watchers = Watchers()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run jobs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(Impatience(self._requests).run)
            task_status.started()
            await trio.sleep_forever()

    async def build(
        self,
        targets: Sequence[str],
        options: BuildOptions,
        client: Client,
        roots: Roots,
        events: Callable[[BuildEvent], Awaitable[None]],
        tell_now: TellNow | None = None,
    ) -> BuildReport:
        """Have targets built or substituted, and return when all of them are valid.

        An item that is no derivation, and that nobody offers, is no error, as in
        the reference; the report names it.

        Args:
            targets: Store items, or derivations with ``!OUTPUT,…`` after them.
            options: How to build.
            client: For whom.
            roots: Keeps what is built, and what it needs, for as long as the client is there.
            events: Awaited with each event, in order. What it raises ends the request.
            tell_now: Called instead while nothing waits to be told, and followed by
                `events` where it gives False.

        Raises:
            BuildError: Some targets could not be had; the status is that of the
                gravest failure, as Guix's clients expect it.
        """
        wanted = [parse_target(text, self._directory) for text in targets]
        return await self._fulfil(wanted, options, client, roots, events, tell_now)

    async def substitute(
        self,
        path: str,
        options: BuildOptions,
        client: Client,
        roots: Roots,
        events: Callable[[BuildEvent], Awaitable[None]],
    ) -> BuildReport:
        """Have an item substituted, even if it is a derivation; otherwise as `build`."""
        wanted = [Target(self._directory.parse(path), as_item=True)]
        return await self._fulfil(wanted, options, client, roots, events)

    async def _fulfil(
        self,
        wanted: Sequence[Target],
        options: BuildOptions,
        client: Client,
        roots: Roots,
        events: Callable[[BuildEvent], Awaitable[None]],
        tell_now: TellNow | None = None,
    ) -> BuildReport:
        request = Request(client, options, self._start, self._grow, EventQueue(tell_now))
        self._requests.add(request)
        try:
            with self._realiser.wanting(options):
                obtain = self._obtainer(request)
                request.begin(await self._plan(wanted, options, roots, request, obtain))
                async for event in request.queue:
                    await events(event)
        finally:
            request.abandon()
            self._requests.discard(request)
        return _report(request)

    async def look_ahead(
        self,
        targets: Sequence[str],
        options: BuildOptions,
        client: Client,
        roots: Roots,
        events: Callable[[BuildEvent], Awaitable[None]],
    ) -> Outlook:
        """Find out what `build` would do, without doing it; the arguments are the same."""
        wanted = [parse_target(text, self._directory) for text in targets]
        request = Request(client, options, self._start, self._grow)
        plan = await self._plan(wanted, options, roots, request)
        try:
            request.consider(plan)
            async for event in request.queue:
                await events(event)
        finally:
            request.abandon()
        if request.fatal is not None:
            raise request.fatal
        return _outlook(plan)

    def cancel(self, path: StorePath) -> bool:
        """End the jobs of a derivation or item for all who want it; tell whether there was one."""
        jobs = [job for job in self._jobs.values() if job.path == path]
        for job in jobs:
            job.cancelled = True
            job.scope.cancel()
        return bool(jobs)

    def jobs_of(self, path: StorePath) -> list[AnyJob]:
        """Return the jobs of a derivation or item."""
        return [job for job in self._jobs.values() if job.path == path]

    def in_use(self) -> set[StorePath]:
        """Return what jobs make, and what they make it from, as far as a derivation names it."""
        paths: set[StorePath] = set()
        for job in self._jobs.values():
            paths.add(job.path)
            if isinstance(job, Job):
                paths.update(job.derivation.output_paths, job.derivation.input_sources)
            elif isinstance(job, Download):
                paths.update(job.offer.references)
        return paths

    def snapshot(self) -> list[JobView]:
        """Return a look at each job, the oldest first."""
        now = trio.current_time()
        return [view(job, now) for job in self._jobs.values()]

    async def _plan(
        self,
        wanted: Sequence[Target],
        options: BuildOptions,
        roots: Roots,
        request: Request,
        obtain: Obtain | None = None,
    ) -> Plan:
        inspect = self._inspect if options.mode is BuildMode.REPAIR else None
        return await self._planner.plan(
            wanted,
            options.mode,
            roots,
            ask=self._asker(options, request),
            fallback=options.fallback,
            inspection=inspect(request.queue.put) if inspect else None,
            obtain=obtain,
        )

    def _obtainer(self, request: Request) -> Obtain | None:
        lookup = self._lookup
        if lookup is None:
            return None

        async def obtain(drv: StorePath, derivation: Derivation) -> bool:
            if not derivation.is_fixed_output:
                return False
            tell, keep_log = request.queue.put, request.options.keep_log
            return await lookup.obtain(drv, derivation, tell, keep_log=keep_log)

        return obtain

    def _asker(self, options: BuildOptions, request: Request) -> Ask | None:
        substituter, sources = self._substituter, options.sources
        if substituter is None or sources is None or not substituter.is_present():
            return None

        def listen(data: bytes) -> None:
            request.queue.offer(SubstituterOutput("", data))

        async def ask(paths: Collection[StorePath]) -> Mapping[StorePath, Offer]:
            return await substituter.ask(paths, sources, listen)

        return ask

    def _grow(self, request: Request, plan: Plan) -> None:
        assert self._nursery is not None, "the scheduler runs before anyone asks"
        self._nursery.start_soon(self._grow_plan, request, plan)

    async def _grow_plan(self, request: Request, plan: Plan) -> None:
        with request.growing():
            try:
                given_up = await self._planner.grow(plan, at_once=not request.options.keep_going)
            except BuildError as error:
                request.break_off(error)
            except (StoreError, OSError) as error:
                request.break_off(BuildError(str(error)))
            except Exception as error:
                # As with jobs: one request's fault must not end the others.
                log.exception("planning_crashed")
                request.break_off(BuildError(f"internal error while planning: {error!r}"))
            else:
                request.grown(given_up)

    def _start(self, request: Request, node: Node) -> AnyJob:
        sources = None if node.offer is None else request.options.sources
        key = JobKey(node.path, node.mode, sources)
        job = self._jobs.get(key)
        if job is None or job.scope.cancel_called:
            job = self._new_job(key, request, node)
        job.follow(request)
        return job

    def _watch(self, job: AnyJob, event: CourseEvent) -> None:
        if self.watchers.count:
            clients = [follower.client for follower in job.followers]
            self.watchers.tell(event, time.time(), clients)

    def _new_job(self, key: JobKey, request: Request, node: Node) -> AnyJob:
        assert self._nursery is not None, "the scheduler runs before anyone asks"
        job = _job_for(key, request.options, node)
        self._jobs[key] = job
        job.audience.observer = partial(self._watch, job)
        job.on_made = partial(self._made, job)
        self._nursery.start_soon(self._run, job)
        return job

    async def _run(self, job: AnyJob) -> None:
        if self.watchers.count:
            self._watch(job, GoalBegun(job.path, job.kind))
        try:
            with job.scope:
                job.error = await self._outcome(job)
            if job.scope.cancelled_caught:
                text = f"build of `{job.path}' was cancelled"
                job.error = BuildError(text, FailureKind.CANCELLED)
        except Exception as error:
            # One job's fault must not end the others; the log has the traceback.
            log.exception("job_crashed", drv=job.path)
            job.error = BuildError(f"internal error while building `{job.path}': {error!r}")
        job.finished = True
        if job.made:
            _forgive(job)
        else:
            if job.error is not None:
                job.audience.tell(_failure(job, job.error))
            self._ended(job)
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
        for follower in tuple(job.followers):
            follower.job_finished(job)

    def _made(self, job: AnyJob) -> bool:
        """Let what needs a job begin; tell whether anything does."""
        self._ended(job)
        before = len(self._jobs)
        for follower in tuple(job.followers):
            follower.job_made(job)
        return len(self._jobs) > before

    def _ended(self, job: AnyJob) -> None:
        if not self.watchers.count:
            return
        outcome = "done" if job.made or job.error is None else job.error.kind.value
        self._watch(job, GoalEnded(job.path, outcome, trio.current_time() - job.since))

    async def _outcome(self, job: AnyJob) -> BuildError | None:
        try:
            if isinstance(job, Job):
                await self._realiser.realise(job)
            elif isinstance(job, Download) and self._substituter is not None:
                await self._substituter.substitute(job)
        except BuildError as error:
            return error
        except HelperError as error:
            log.warning("helper failed", drv=job.path, error=error.message)
            return BuildError(as_store_error(error).message)
        except (StoreError, OSError) as error:
            return BuildError(str(error))
        return None


def _forgive(job: AnyJob) -> None:
    """Take note of what the tidying up of a job met; what was wanted is there."""
    if job.error is not None:
        log.warning("job_not_tidied", drv=job.path, error=job.error.message)
        job.error = None


def _job_for(key: JobKey, options: BuildOptions, node: Node) -> AnyJob:
    now = trio.current_time()
    if node.offer is not None:
        return Download(key, options, now, offer=node.offer)
    assert node.derivation is not None, "only derivations that were read are ever ready"
    return Job(key, options, now, derivation=node.derivation)


def _outlook(plan: Plan) -> Outlook:
    nodes = sorted(plan.graph, key=lambda node: turn(node.key))
    builds = [
        node.path for node in nodes if node.derivation is not None and node.stage not in REVISITED
    ]
    offers = [node.offer for node in nodes if node.offer is not None]
    return Outlook(tuple(builds), tuple(offers), plan.problems, tuple(plan.unavailable))


def _failure(job: AnyJob, error: BuildError) -> BuildEvent:
    if isinstance(job, Download):
        return SubstituteFailed(job.path, job.status, error.message)
    if isinstance(error, RemoteBuildError):
        # Guix's clients learn from the trace of a failed hook how it ended, from others nothing.
        status = error.wait_status if error.kind is FailureKind.HOOK else 1
        return BuildFailed(job.path, error.kind, error.message, status, remote=True)
    # Guix's clients are told 0 where no builder was started, because of the derivation itself.
    status = 0 if error.kind is FailureKind.INPUT_REJECTED else 1
    return BuildFailed(job.path, error.kind, error.message, status)


def _report(request: Request) -> BuildReport:
    if request.fatal is not None:
        raise request.fatal
    failed = request.failed_targets()
    if failed:
        for error in request.errors.values():
            if error.kind is FailureKind.SUBSTITUTION_FAILED:
                raise error
        names = ", ".join(f"`{path}'" for path in failed)
        status = max(error.status for error in request.errors.values())
        raise BuildError(f"build of {names} failed", _gravest(request.errors.values()), status)
    return BuildReport(request.targets, request.errors, request.unavailable)


def _gravest(errors: Iterable[BuildError]) -> FailureKind:
    return max(errors, key=lambda error: error.status).kind
