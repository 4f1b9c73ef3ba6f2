# SPDX-License-Identifier: GPL-3.0-or-later
"""A job: one derivation being realised, for however many requests want it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import trio

from builder.audience import Audience, EventQueue
from builder.errors import BuildError
from builder.events import BuildStarted, GoalWaiting
from builder.options import BuildMode, BuildOptions, Client
from store.derivations import Derivation
from store.paths import StorePath


class JobState(StrEnum):
    """What a job is doing; the words are stable."""

    WAITING_FOR_SLOT = "waiting-for-slot"
    WAITING_FOR_LOCK = "waiting-for-lock"
    WAITING_FOR_MACHINE = "waiting-for-machine"
    PREPARING = "preparing"
    BUILDING = "building"
    OFFLOADED = "offloaded"
    REGISTERING = "registering"


@dataclass(frozen=True, slots=True)
class JobKey:
    """What makes two wishes the same job."""

    path: StorePath
    mode: BuildMode


class Follower(Protocol):
    """What a job knows of a request that wants it."""

    client: Client
    queue: EventQueue

    def job_finished(self, job: "Job") -> None:
        """Take note that the job has an outcome."""


@dataclass(slots=True, eq=False)
class Job:
    """One derivation being realised.

    `options` are those of the request that came first. `error` is None until the
    job has failed; `finished` tells whether it ended at all. `since` is on
    trio's clock.
    """

    key: JobKey
    derivation: Derivation
    options: BuildOptions
    since: float
    state: JobState = JobState.WAITING_FOR_SLOT
    waits_for: str = ""
    started: BuildStarted | None = None
    error: BuildError | None = None
    finished: bool = False
    cancelled: bool = False
    followers: list[Follower] = field(default_factory=list)
    audience: Audience = field(default_factory=Audience)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def path(self) -> StorePath:
        """The derivation."""
        return self.key.path

    @property
    def asker(self) -> int:
        """Whose turn it takes in the queue for slots: the session of the first who wants it."""
        return self.followers[0].client.session if self.followers else 0

    def follow(self, follower: Follower) -> None:
        """Let one more request want this; it is told what it missed."""
        self.followers.append(follower)
        self.audience.add(follower.queue)
        if self.started is not None:
            follower.queue.put(self.started)

    def leave(self, follower: Follower) -> None:
        """Let a request want this no longer; the last one to leave ends the job."""
        self.followers.remove(follower)
        self.audience.remove(follower.queue)
        if not self.followers:
            self.scope.cancel()

    def wait(self, state: JobState, what: str, holder: str) -> None:
        """Note, and tell, what the job waits for."""
        self.state = state
        self.waits_for = f"{what}: {holder}" if holder else what
        self.audience.tell(GoalWaiting(self.path, what, holder))

    def proceed(self, state: JobState) -> None:
        """Note that the job goes on."""
        self.state = state
        self.waits_for = ""


@dataclass(frozen=True, slots=True)
class JobView:
    """A look at a job, for `ps`; times in seconds."""

    path: StorePath
    mode: str
    state: str
    waits_for: str
    age: float
    pid: int | None
    log_file: str
    clients: tuple[Client, ...]

    @property
    def offloaded(self) -> bool:
        """Whether another machine builds it."""
        return self.state == JobState.OFFLOADED


def view(job: Job, now: float) -> JobView:
    """Return a look at a job at the time `now` of trio's clock."""
    started = job.started
    return JobView(
        path=job.path,
        mode=job.key.mode.name.lower(),
        state=job.state.value,
        waits_for=job.waits_for,
        age=now - job.since,
        pid=started.pid if started else None,
        log_file=started.log_file if started else "",
        clients=tuple(follower.client for follower in job.followers),
    )
