# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds that nobody has to stay connected for.

Each belongs to a user, and goes on until it ends by itself or is ended; when the daemon
stops meanwhile, the next one begins it anew. Whoever attaches is told what goes on. When it
has ended, its result is kept from collectors until its owner has fetched it, or some time
has passed.
Entry points: `DetachedBuilds`, `DetachedBuild`.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog
import trio

from builder.errors import BuildError
from builder.events import (
    BuildEvent,
    BuildFailed,
    BuildLog,
    BuildRetried,
    BuildStarted,
    BuildSucceeded,
    GoalPlanned,
    SubstitutePlanned,
    SubstituteProgress,
    SubstituterOutput,
)
from builder.options import BuildOptions, Client
from builder.scheduling.audience import Audience, EventQueue
from builder.scheduling.scheduler import BuildReport, Scheduler
from store.errors import StoreError
from store.paths import StorePath
from store.temproots import SessionRoots, TempRoots
from storedaemon.detached_record import DetachedRecord, Wanted
from storedaemon.session_options import SessionOptions

MAX_BUILDS = 1000
"""Builds that are kept, ended ones included; the oldest results go before one is refused."""

Recall = Callable[[Wanted], Awaitable[tuple[Client, BuildOptions]]]

log = structlog.get_logger("detached")


@dataclass(slots=True, eq=False)
class DetachedBuild:
    """A build without a client.

    Attributes:
        number: By which it is known.
        owner: Whose it is.
        targets: What is built.
        options: How.
        roots: Keeps the result.
        since: When it began, in seconds since 1970.
        ended: When it ended; None before.
        report: What came of it, if it succeeded.
        error: Why it failed, if it did.
        building: What ends it.
        keeping: What ends its being kept.
    """

    number: int
    owner: Client
    targets: tuple[str, ...]
    options: BuildOptions
    roots: SessionRoots
    since: float = field(default_factory=time.time)
    ended: float | None = None
    report: BuildReport | None = None
    error: StoreError | None = None
    building: trio.CancelScope = field(default_factory=trio.CancelScope)
    keeping: trio.CancelScope = field(default_factory=trio.CancelScope)
    _audience: Audience = field(default_factory=Audience)
    _planned: dict[StorePath, BuildEvent] = field(default_factory=dict)
    _started: dict[StorePath, BuildStarted] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """How it is: ``running``, ``done``, or the kind of failure."""
        if self.ended is None:
            return "running"
        return "done" if self.error is None else self.error.reason

    @contextmanager
    def attached(self) -> Iterator[EventQueue]:
        """Give a queue of what happens from now on, and what must be known of before.

        It is closed when the build has ended.
        """
        queue = EventQueue()
        for event in (*self._planned.values(), *self._started.values()):
            queue.put(event)
        if self.ended is not None:
            queue.close()
        self._audience.add(queue)
        try:
            yield queue
        finally:
            queue.close()
            self._audience.remove(queue)

    async def tell(self, event: BuildEvent) -> None:
        """Pass on an event to those who are attached."""
        match event:
            case BuildLog() | SubstituterOutput() | SubstituteProgress():
                await self._audience.tell_log(event)
                return
            case GoalPlanned(drv=path) | SubstitutePlanned(path=path):
                self._planned[path] = event
            case BuildStarted(drv=drv):
                self._started[drv] = event
            case BuildSucceeded(drv=drv) | BuildFailed(drv=drv) | BuildRetried(drv=drv):
                self._started.pop(drv, None)
        self._audience.tell(event)

    def end(self) -> None:
        """Note that it is over."""
        self.ended = time.time()
        self._started.clear()
        for queue in self._audience:
            queue.close()


class DetachedBuilds:
    """All detached builds.

    Args:
        scheduler: Builds.
        temp_roots: Keeps results.
        keep: Seconds for which a result is kept that nobody fetches.
        record: Remembers what the next daemon has to go on with.
        recall: Tells who wants what was remembered, and how.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        temp_roots: TempRoots,
        keep: float,
        record: DetachedRecord,
        recall: Recall,
    ) -> None:
        self._record = record
        self._recall = recall
        self._scheduler = scheduler
        self._temp_roots = temp_roots
        self._keep = keep
        self._builds: dict[int, DetachedBuild] = {}
        self._last = 0
        self._nursery: trio.Nursery | None = None

    def __iter__(self) -> Iterator[DetachedBuild]:
        return iter(tuple(self._builds.values()))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Build until cancelled; what is going on then is for the next daemon."""
        remembered = await self._record.all()
        self._last = max((wanted.number for wanted in remembered), default=0)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._resume, remembered)
                task_status.started()
                await trio.sleep_forever()
        finally:
            for build in self:
                self._drop(build)

    async def start(
        self,
        owner: Client,
        targets: Sequence[str],
        options: BuildOptions,
        settings: SessionOptions,
    ) -> DetachedBuild:
        """Begin a build; its targets are known to be derivations or items.

        Args:
            owner: Whose it is; a known user.
            targets: What is built.
            options: How.
            settings: How the next daemon is to build it.

        Raises:
            StoreError: There are too many (reason ``too-many``).
        """
        self._make_room()
        self._last += 1
        assert owner.uid is not None, "only known users detach"
        assert owner.gid is not None, "the kernel tells both"
        wanted = Wanted(
            self._last,
            owner.uid,
            owner.gid,
            owner.trusted,
            time.time(),
            options.mode,
            tuple(targets),
            settings,
        )
        await self._record.add(wanted)
        return self._begin(wanted, owner, options)

    async def _resume(self, remembered: Sequence[Wanted]) -> None:
        for wanted in remembered:
            try:
                owner, options = await self._recall(wanted)
            except StoreError as error:
                log.warning("detached_build_refused", number=wanted.number, reason=error.message)
                await self._record.remove(wanted.number)
            else:
                log.info("detached_build_resumed", number=wanted.number)
                self._begin(wanted, owner, options)

    def _begin(self, wanted: Wanted, owner: Client, options: BuildOptions) -> DetachedBuild:
        assert self._nursery is not None, "it runs before anybody asks"
        whose = replace(owner, pid=None, detached=True)
        roots = self._temp_roots.session()
        build = DetachedBuild(wanted.number, whose, wanted.targets, options, roots, wanted.since)
        self._builds[build.number] = build
        self._nursery.start_soon(self._run, build)
        return build

    def get(self, number: int) -> DetachedBuild | None:
        """Return a build by its number."""
        return self._builds.get(number)

    def of_target(self, path: str) -> list[DetachedBuild]:
        """Return the builds of a derivation, those that run first, then the latest."""
        found = [b for b in self if any(t.partition("!")[0] == path for t in b.targets)]
        return sorted(found, key=lambda build: (build.ended is not None, -build.number))

    def forget(self, build: DetachedBuild) -> None:
        """End a build if it is going on, and keep nothing of it any more."""
        self._drop(build)
        assert self._nursery is not None, "it runs before anybody asks"
        self._nursery.start_soon(self._record.remove, build.number)

    def _drop(self, build: DetachedBuild) -> None:
        self._builds.pop(build.number, None)
        build.building.cancel()
        build.keeping.cancel()
        build.roots.close()

    def _make_room(self) -> None:
        if len(self._builds) < MAX_BUILDS:
            return
        ended = next((build for build in self if build.ended is not None), None)
        if ended is None:
            raise StoreError(f"{MAX_BUILDS} detached builds are going on", reason="too-many")
        self.forget(ended)

    async def _run(self, build: DetachedBuild) -> None:
        with build.building:
            try:
                build.report = await self._scheduler.build(
                    build.targets, build.options, build.owner, build.roots, build.tell
                )
            except StoreError as error:
                build.error = error
            except Exception as error:
                # One build's fault must not end the others; the log has the traceback.
                log.exception("detached_build_crashed", number=build.number)
                build.error = BuildError(f"internal error: {error!r}")
            # Where the daemon stops, what was built has failed, but is still wanted.
            await trio.lowlevel.checkpoint()
        if build.report is None and build.error is None:
            build.error = StoreError("the detached build was ended", reason="cancelled")
        build.end()
        if build.error is not None:
            await self._record.remove(build.number)
        log.info("detached_build_ended", number=build.number, state=build.state)
        with build.keeping:
            await trio.sleep(self._keep)
        self.forget(build)
