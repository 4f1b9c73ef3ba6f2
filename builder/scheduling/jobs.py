# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: a derivation being realised, or an item being downloaded, for all requests that want it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

import trio

from builder.admission.machine import MachineState
from builder.admission.slots import Asker, Claim, Slot
from builder.admission.usage import Usage
from builder.errors import BuildError
from builder.events import (
    BuildEvent,
    BuildStarted,
    GoalShared,
    GoalWaiting,
    SubstituteStarted,
)
from builder.memory.meters import Meter
from builder.options import BuildMode, BuildOptions, Client
from builder.retries.policy import Quiet
from builder.scheduling.audience import Audience, EventQueue
from builder.scheduling.waiting import Holder, Wait
from builder.substitution.offers import Offer, Sources
from store.derivations import Derivation
from store.paths import StorePath, name_of


class JobState(StrEnum):
    """What a job is doing; the words are stable."""

    WAITING_FOR_SLOT = "waiting-for-slot"
    WAITING_FOR_LOCK = "waiting-for-lock"
    WAITING_FOR_MACHINE = "waiting-for-machine"
    WAITING_FOR_RESOURCES = "waiting-for-resources"
    WAITING_FOR_QUIET = "waiting-for-quiet"
    WAITING_FOR_USER = "waiting-for-user"
    WAITING_TO_RETRY = "waiting-to-retry"
    PREPARING = "preparing"
    BUILDING = "building"
    OFFLOADED = "offloaded"
    DOWNLOADING = "downloading"
    SEALING = "sealing"
    REGISTERING = "registering"
    ENTERED = "entered"


_KINDS = {mode: mode.name.lower() for mode in BuildMode}


class JobKey(NamedTuple):
    """What makes two wishes the same job.

    Attributes:
        path: The derivation or the item.
        mode: How it is made.
        sources: For a download, where from; None for a build.
    """

    path: StorePath
    mode: BuildMode
    sources: Sources | None = None


class Follower(Protocol):
    """What a job knows of a request that wants it."""

    client: Client
    queue: EventQueue

    def job_made(self, job: "AnyJob") -> None:
        """Take note that what the job makes is valid, and that it is about to end."""

    def job_finished(self, job: "AnyJob") -> None:
        """Take note that the job has an outcome."""


class Admitted(NamedTuple):
    """How it was when a build was let start.

    Attributes:
        slot: The slot that it has.
        started: When, in seconds since 1970.
        clock: When, as `time.monotonic` counts.
        machine: What the machine was like.
        ended: To be called when no builder is to run for it any more.
    """

    slot: Slot
    started: float
    clock: float
    machine: MachineState
    ended: Callable[[], None]


@dataclass(slots=True, eq=False)
class AnyJob:
    """What all jobs have in common.

    `path` is the derivation or the item, and `options` are those of the request that came
    first. `error` is None until the job has failed; `finished` tells whether it ended at
    all, and `made`, which `on_made` passes on, whether what it makes is valid. `since` is on
    trio's clock and `begun` in seconds since 1970; `started` is what a request is told that
    comes later, `waits` what it waits for, and `claim` its place in the queues for slots.
    """

    key: JobKey
    options: BuildOptions
    since: float
    state: JobState = JobState.WAITING_FOR_SLOT
    waits: Wait | None = None
    error: BuildError | None = None
    finished: bool = False
    made: bool = False
    on_made: Callable[[], bool] = field(default=lambda: False)
    cancelled: bool = False
    followers: list[Follower] = field(default_factory=list)
    audience: Audience = field(default_factory=Audience)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    claim: Claim = field(default_factory=Claim)
    begun: float = field(default_factory=time.time)
    path: StorePath = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.claim.goal = self.key.path

    @property
    def kind(self) -> str:
        """What is done: a word for people and programs."""
        return _KINDS[self.key.mode]

    @property
    def opening(self) -> BuildEvent | None:
        """What has to be told to whoever follows the job from now on."""
        return None

    def follow(self, follower: Follower) -> None:
        """Let one more request want this; it is told what it missed."""
        if self.followers:
            follower.queue.put(self._shared())
        self.followers.append(follower)
        self.claim.add(_asker(follower))
        self.claim.user = self.claim.user or follower.client.user
        self.audience.add(follower.queue)
        if (opening := self.opening) is not None:
            follower.queue.put(opening)
        if self.waits is not None:
            follower.queue.put(GoalWaiting(self.path, *self.waits.told))

    def _shared(self) -> GoalShared:
        client = self.followers[0].client
        holder = Holder(self.path, client.user, client.pid or 0, since=self.begun)
        return GoalShared(self.path, self.state.value, holder)

    def leave(self, follower: Follower) -> None:
        """Let a request want this no longer; the last one to leave ends the job."""
        self.followers.remove(follower)
        self.claim.remove(_asker(follower))
        self.claim.user = self.followers[0].client.user if self.followers else ""
        self.audience.remove(follower.queue)
        if not (self.followers or self.made):
            self.scope.cancel()

    def wait(
        self, state: JobState, what: str, reason: str, holders: tuple[Holder, ...] = ()
    ) -> None:
        """Note, and tell, what the job waits for, and who has it as far as that is known."""
        self.state = state
        before = self.waits
        if before and (before.what, before.reason) == (what, reason):
            return
        since = before.since if before and before.what == what else time.time()
        self.waits = Wait(what, reason, holders, since)
        self.audience.tell(GoalWaiting(self.path, *self.waits.told))

    def proceed(self, state: JobState) -> None:
        """Note that the job goes on."""
        self.state = state
        self.waits = None

    async def hand_over(self) -> None:
        """Say that what the job makes is valid: what needs it begins before the job tidies up."""
        self.made = True
        if self.on_made():
            # Trio takes the tasks of a pass in any order; what begins now comes before the second.
            await trio.lowlevel.cancel_shielded_checkpoint()
            await trio.lowlevel.cancel_shielded_checkpoint()


@dataclass(slots=True, eq=False)
class Job(AnyJob):
    """A derivation being realised.

    `attempt` counts from 1; `quiet` is how quiet the machine has to be for it,
    `foresee_memory` looks up the bytes that its like needed before, 0 where unknown, and
    `admitted` is how it was when it started. `meter` measures it, and `usage` is what its
    builder has used, once it has ended. `retried` tells whether an error is followed
    by another attempt.
    """

    derivation: Derivation = field(kw_only=True)
    started: BuildStarted | None = None
    attempt: int = 1
    quiet: Quiet = Quiet.USUAL
    foresee_memory: Callable[[], int] = field(default=lambda: 0)
    admitted: Admitted | None = None
    meter: Meter | None = None
    usage: Usage | None = None
    retried: Callable[[BuildError], bool] = field(default=lambda _error: False)
    _expected_memory: int | None = None

    def builder_ended(self) -> None:
        """Note that what a builder made is looked at, and none will run any more."""
        self.proceed(JobState.SEALING)
        if self.admitted is not None:
            self.admitted.ended()

    @property
    def expected_memory(self) -> int:
        """What `foresee_memory` tells; nobody asks where no other build runs."""
        if self._expected_memory is None:
            self._expected_memory = self.foresee_memory()
        return self._expected_memory

    @property
    def name(self) -> str:
        """The derivation's name, which its successors are likely to have too."""
        return name_of(self.path)

    @property
    def opening(self) -> BuildEvent | None:
        """Which builder runs."""
        return self.started


@dataclass(slots=True, eq=False)
class Download(AnyJob):
    """An item being substituted; `status` is what the program said of it at the end."""

    offer: Offer = field(kw_only=True)
    started: SubstituteStarted | None = None
    status: str = ""

    @property
    def sources(self) -> Sources:
        """Where it is downloaded from."""
        assert self.key.sources is not None, "a download's key names its sources"
        return self.key.sources

    @property
    def kind(self) -> str:
        """What is done, whatever for."""
        return "substitute"

    @property
    def opening(self) -> BuildEvent | None:
        """What is being downloaded."""
        return self.started


def _asker(follower: Follower) -> Asker:
    # Those of whom nothing is known share one user's part.
    return Asker(follower.client.uid, follower.client.session, follower.client.weight)


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
    attempt: int = 1
    quiet: str = Quiet.USUAL.word
    priority: int = 0
    last_line: str = ""
    holders: tuple[Holder, ...] = ()
    shell: int | None = None

    @property
    def builds_here(self) -> bool:
        """Whether its builder runs on this machine."""
        return self.pid is not None and self.state not in (JobState.OFFLOADED, JobState.ENTERED)

    @property
    def offloaded(self) -> bool:
        """Whether another machine builds it."""
        return self.state == JobState.OFFLOADED


def view(job: AnyJob, now: float) -> JobView:
    """Return a look at a job at the time `now` of trio's clock."""
    started = job.started if isinstance(job, Job) else None
    return JobView(
        path=job.path,
        mode=job.kind,
        state=job.state.value,
        waits_for=job.waits.text if job.waits else "",
        age=now - job.since,
        pid=started.pid if started else None,
        log_file=started.log_file if started else "",
        clients=tuple(follower.client for follower in job.followers),
        attempt=job.attempt if isinstance(job, Job) else 1,
        quiet=(job.quiet if isinstance(job, Job) else Quiet.USUAL).word,
        priority=job.claim.priority,
        last_line=job.audience.last_line,
        holders=job.waits.holders if job.waits else (),
    )
