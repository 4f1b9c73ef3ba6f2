# SPDX-License-Identifier: GPL-3.0-or-later
"""A request: the targets one client waits for, and how far they are.

It reacts to the end of each job it wants: what became ready is started, what
cannot be made any more is given up, and what is open is left to the planner. It
holds no task of its own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import trio

from builder.errors import BuildError
from builder.events import BuildFailed, FailureKind, GoalPlanned, SubstitutePlanned
from builder.options import BuildOptions, Client
from builder.planning.graph import REVISITED, Key, Node, Substitute
from builder.planning.request_plan import Plan, dependencies_failed
from builder.scheduling.audience import EventQueue
from builder.scheduling.jobs import AnyJob, Download
from store.paths import StorePath


@dataclass(slots=True, eq=False)
class Request:
    """What one client waits for.

    Args:
        start: Joins or starts the job of a node for this request.
        grow: Has the planner decide what is open, and calls `grown` or `break_off`.
    """

    client: Client
    options: BuildOptions
    start: Callable[["Request", Node], AnyJob]
    grow: Callable[["Request", Plan], None]
    queue: EventQueue = field(default_factory=EventQueue)
    errors: dict[StorePath, BuildError] = field(default_factory=dict)
    fatal: BuildError | None = None
    _plan: Plan | None = None
    _jobs: set[AnyJob] = field(default_factory=set)
    _made: set[AnyJob] = field(default_factory=set)
    _growth: trio.CancelScope | None = None
    _announced: set[Key] = field(default_factory=set)
    _only_considers: bool = False

    @property
    def jobs(self) -> frozenset[AnyJob]:
        """The jobs that it wants at the moment."""
        return frozenset(self._jobs | self._made)

    @property
    def targets(self) -> tuple[StorePath, ...]:
        """The items asked for; none before the plan is made."""
        return self._plan.targets if self._plan else ()

    @property
    def unavailable(self) -> tuple[StorePath, ...]:
        """The targets that nothing can make, and nobody offers."""
        return tuple(self._plan.unavailable) if self._plan else ()

    def begin(self, plan: Plan) -> None:
        """Start what the plan says can be made now."""
        self._plan = plan
        if plan.is_open:
            self._go_on()
        else:
            self._take_over(plan, ())

    def consider(self, plan: Plan) -> None:
        """Have what is open in a plan decided, and start nothing."""
        self._plan = plan
        self._only_considers = True
        if plan.is_open:
            self._grow(plan)
        else:
            self.queue.close()

    def growing(self) -> trio.CancelScope:
        """Return the scope in which the plan grows; it is cancelled with the request."""
        assert self._growth is not None, "a plan grows when it is told to"
        return self._growth

    def grown(self, given_up: Iterable[Node]) -> None:
        """React to the planner's decisions; `given_up` are nodes that cannot be had any more."""
        self._growth = None
        if self._only_considers:
            self.queue.close()
        else:
            self._take_over(self._expect_plan(), given_up)

    def break_off(self, error: BuildError) -> None:
        """End the request with an error that is not one target's."""
        self._growth = None
        self.fatal = error
        self.abandon()

    def job_made(self, job: AnyJob) -> None:
        """Start what needs a job that is about to end."""
        self._jobs.discard(job)
        self._made.add(job)
        self._give_up(self._expect_plan().graph.succeeded(_key(job)))
        self._go_on()

    def job_finished(self, job: AnyJob) -> None:
        """React to the end of a job that this request wants."""
        if job in self._made:
            self._made.remove(job)
            self._close_if_over()
        else:
            self._jobs.discard(job)
            self._conclude(job)
            self._go_on()

    def _conclude(self, job: AnyJob) -> None:
        graph = self._expect_plan().graph
        if job.error is None:
            self._give_up(graph.succeeded(_key(job)))
        else:
            self._note_failure(graph[_key(job)], job.error)
            self._give_up(graph.failed(_key(job), at_once=not self.options.keep_going))

    def abandon(self) -> None:
        """Want nothing any more."""
        self.queue.close()
        if self._growth is not None:
            self._growth.cancel()
        jobs = self.jobs
        self._jobs.clear()
        self._made.clear()
        for job in jobs:
            job.leave(self)

    def failed_targets(self) -> list[StorePath]:
        """Return the targets that are known not to be had."""
        return sorted(path for path in set(self.targets) if path in self.errors)

    def _take_over(self, plan: Plan, given_up: Iterable[Node]) -> None:
        """Act on what the planner has found out."""
        self._announce(plan)
        realised, problems = list(plan.realised), dict(plan.problems)
        plan.realised.clear()
        plan.problems.clear()
        self._give_up(given_up)
        for path in realised:
            self._give_up(plan.graph.succeeded(path))
        for path, error in problems.items():
            self._fail(path, error)
        self._go_on()

    def _announce(self, plan: Plan) -> None:
        for node in plan.graph.take_fresh():
            if node.stage in REVISITED or node.key in self._announced:
                continue
            self._announced.add(node.key)
            total, offer = len(self._announced), node.offer
            if offer is None:
                self.queue.put(GoalPlanned(node.path, total))
            else:
                sizes = offer.download_size, offer.nar_size
                self.queue.put(SubstitutePlanned(node.path, *sizes, total))

    def _go_on(self) -> None:
        plan = self._expect_plan()
        if self.fatal or (self.errors and not self.options.keep_going and self.failed_targets()):
            self.abandon()
            return
        for node in plan.graph.take_ready():
            self._jobs.add(self.start(self, node))
        if plan.is_open and self._growth is None:
            self._grow(plan)
        self._close_if_over()

    def _close_if_over(self) -> None:
        if not (self._jobs or self._made or self._growth):
            self.queue.close()

    def _grow(self, plan: Plan) -> None:
        self._growth = trio.CancelScope()
        self.grow(self, plan)

    def _fail(self, path: StorePath, error: BuildError) -> None:
        plan = self._expect_plan()
        self.errors[path] = error
        self._tell_failure(path, error)
        if error.kind is FailureKind.SUBSTITUTION_FAILED and not self.options.keep_going:
            self.fatal = error
        elif path in plan.graph:
            self._give_up(plan.graph.failed(path, at_once=not self.options.keep_going))

    def _give_up(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            error = dependencies_failed(node.path, node.failed_inputs)
            self._note_failure(node, error)
            if not isinstance(node.key, Substitute):
                self._tell_failure(node.path, error)

    def _note_failure(self, node: Node, error: BuildError) -> None:
        """Keep an error, unless it is that of a download that only others asked for.

        Whatever that was for may still be built.
        """
        plan = self._expect_plan()
        if isinstance(node.key, Substitute):
            plan.offers.failed.add(node.path)
            if node.path not in plan.targets:
                return
        self.errors[node.path] = error

    def _tell_failure(self, path: StorePath, error: BuildError) -> None:
        self.queue.put(BuildFailed(path, error.kind, error.message))

    def _expect_plan(self) -> Plan:
        assert self._plan is not None, "a request has a plan before it has jobs"
        return self._plan


def _key(job: AnyJob) -> Key:
    return Substitute(job.path) if isinstance(job, Download) else job.path
