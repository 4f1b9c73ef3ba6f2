# SPDX-License-Identifier: GPL-3.0-or-later
"""A request: the targets one client waits for, and how far they are.

It reacts to the end of each job it wants: what became ready is started, what
cannot be built any more is given up. It holds no task of its own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from builder.audience import EventQueue
from builder.errors import BuildError
from builder.events import BuildFailed, GoalPlanned
from builder.graph import Node
from builder.jobs import Job
from builder.options import BuildOptions, Client
from builder.planner import Plan, dependencies_failed
from store.paths import StorePath


@dataclass(slots=True, eq=False)
class Request:
    """What one client waits for.

    Args:
        start: Joins or starts the job of a node for this request.
    """

    client: Client
    options: BuildOptions
    start: Callable[["Request", Node], Job]
    queue: EventQueue = field(default_factory=EventQueue)
    errors: dict[StorePath, BuildError] = field(default_factory=dict)
    _plan: Plan | None = None
    _jobs: set[Job] = field(default_factory=set)

    @property
    def targets(self) -> tuple[StorePath, ...]:
        """The items asked for; none before the plan is made."""
        return self._plan.targets if self._plan else ()

    def begin(self, plan: Plan) -> None:
        """Start what the plan says can be built now."""
        self._plan = plan
        for total, node in enumerate(plan.graph, 1):
            self.queue.put(GoalPlanned(node.path, total))
        for path, error in plan.problems.items():
            self._fail(path, error)
        self._go_on()

    def job_finished(self, job: Job) -> None:
        """React to the end of a job that this request wants."""
        self._jobs.discard(job)
        plan = self._expect_plan()
        if job.error is None:
            self._give_up(plan.graph.succeeded(job.path))
        else:
            self.errors[job.path] = job.error
            self._give_up(plan.graph.failed(job.path, at_once=not self.options.keep_going))
        self._go_on()

    def abandon(self) -> None:
        """Want nothing any more."""
        self.queue.close()
        jobs, self._jobs = self._jobs, set()
        for job in jobs:
            job.leave(self)

    def failed_targets(self) -> list[StorePath]:
        """Return the targets that are known not to be had."""
        return sorted(path for path in set(self.targets) if path in self.errors)

    def _go_on(self) -> None:
        plan = self._expect_plan()
        if self.failed_targets() and not self.options.keep_going:
            self.abandon()
            return
        for node in plan.graph.take_ready():
            self._jobs.add(self.start(self, node))
        if not self._jobs:
            self.queue.close()

    def _fail(self, path: StorePath, error: BuildError) -> None:
        plan = self._expect_plan()
        self.errors[path] = error
        self._tell_failure(path, error)
        if path in plan.graph:
            self._give_up(plan.graph.failed(path, at_once=not self.options.keep_going))

    def _give_up(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            error = dependencies_failed(node.path, node.failed_inputs)
            self.errors[node.path] = error
            self._tell_failure(node.path, error)

    def _tell_failure(self, path: StorePath, error: BuildError) -> None:
        self.queue.put(BuildFailed(path, error.kind, error.message))

    def _expect_plan(self) -> Plan:
        assert self._plan is not None, "a request has a plan before it has jobs"
        return self._plan
