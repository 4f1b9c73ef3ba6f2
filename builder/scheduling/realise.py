# SPDX-License-Identifier: GPL-3.0-or-later
"""Realising a derivation whose inputs are valid: a machine or a slot, locks, a build if need be.

What other machines may build is offered to the build hook first, with the locks
held as it will need them, but without a slot; what nobody takes is built here.
A build slot is never held while waiting for a lock, nor a lock while waiting for
a slot: a turn takes a slot, tries the locks of the outputs, and gives the slot
back where another process has them. Whatever somebody else made valid meanwhile
is taken as it is.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from builder.admission.gate import Admission
from builder.build import Builder
from builder.errors import BuildError
from builder.events import FailureKind
from builder.offload.builder import RemoteBuilder
from builder.offload.dispatch import Dispatcher, Turn, must_be_local
from builder.offload.protocol import Answer
from builder.options import BuildMode, BuildOptions, BuildSettings
from builder.platforms import Machine
from builder.scheduling.jobs import Job, JobState
from builder.scheduling.locked import LockWatch
from locker.pathlocks import PathLocks
from store.database import StoreDatabase
from store.paths import StorePath

LASTING = frozenset(
    {
        FailureKind.PERMANENT,
        FailureKind.NOT_EXECUTED,
        FailureKind.OUTPUT_REJECTED,
        FailureKind.NOT_DETERMINISTIC,
    }
)
"""Failures that are remembered, where that is wanted: another try would fail as well."""


class Realiser:
    """Does the jobs of a scheduler.

    Args:
        settings: How this daemon builds.
        database: What is valid.
        locks: The locks of items.
        builder: Runs builders.
        admission: Says when a build may start.
        dispatcher: Offers jobs to other machines.
        remote: Has them built there.
    """

    def __init__(
        self,
        settings: BuildSettings,
        database: StoreDatabase,
        locks: PathLocks,
        builder: Builder,
        admission: Admission,
        dispatcher: Dispatcher,
        remote: RemoteBuilder,
    ) -> None:
        self._settings = settings
        self._database = database
        self._locks = locks
        self._builder = builder
        self._dispatcher = dispatcher
        self._remote = remote
        self._machine = Machine(settings.system, os.uname().machine)
        self._asked: list[int] = []
        self._holders = LockWatch()
        self._admission = admission
        self._resize()

    @contextmanager
    def wanting(self, options: BuildOptions) -> Iterator[None]:
        """Have as many slots as the daemon's setting and the clients' wishes, whichever is most.

        As with the C++ daemon, a client may ask for more builds at once than the
        daemon's setting; with us it gets them for as long as it waits.
        """
        asked = options.max_jobs or 0
        self._asked.append(asked)
        self._resize()
        try:
            yield
        finally:
            self._asked.remove(asked)
            self._resize()

    async def realise(self, job: Job) -> None:
        """Make the outputs of a derivation valid, or check or repair them, as the job says.

        Raises:
            BuildError: They cannot be had.
        """
        try:
            if self._dispatcher.concerns(job) and await self._offer(job):
                return
            self._refuse_impossible(job)
            while not await self._take_turn(job):
                await self._wait_for_locks(job)
        finally:
            self._dispatcher.build_ended()

    def _resize(self) -> None:
        # With one slot a build that must be local is possible even where no other is.
        self._admission.slots.resize(max(self._max_jobs, 1))

    @property
    def _max_jobs(self) -> int:
        return max(self._settings.max_jobs, *self._asked, 0)

    def _may_build_here(self, job: Job) -> bool:
        return self._max_jobs > 0 and job.options.max_jobs != 0

    async def _offer(self, job: Job) -> bool:
        """Offer a job to other machines; tell whether it is done, rather than for us to do."""
        async with self._dispatcher.turn(job) as turn:
            while True:
                match await self._offer_locked(job, turn):
                    case None:
                        turn.leave()
                        await self._wait_for_locks(job)
                        await turn.take()
                    case Answer.POSTPONE:
                        await turn.postponed()
                    case answer:
                        return answer is Answer.ACCEPT

    async def _offer_locked(self, job: Job, turn: Turn) -> Answer | None:
        """Offer a job once, and have it built if it is accepted; None where its locks are taken."""
        async with self._locks.try_hold(job.derivation.output_paths) as held:
            if held is None:
                return None
            held.delete_on_release()
            missing = self._missing(job)
            if not missing:
                return Answer.ACCEPT
            self._refuse_known_failure(job, missing)
            slots = self._admission.slots.statistics()
            here = self._may_build_here(job) and slots.taken < slots.capacity
            answer = await self._dispatcher.offer(job, here=here)
            if isinstance(answer, Answer):
                return answer
            turn.leave()
            with self._holders.holding(job, job.derivation.output_paths):
                await self._remote.build(job, missing, answer)
            return Answer.ACCEPT

    def _missing(self, job: Job) -> list[StorePath]:
        return [p for p in job.derivation.output_paths if not self._database.is_valid(p)]

    def _refuse_impossible(self, job: Job) -> None:
        if not self._may_build_here(job) and not must_be_local(job, self._machine):
            raise BuildError(
                "unable to start any build; either increase `--max-jobs' "
                "or enable distributed builds"
            )
        self._builder.refuse_unserved(job)

    async def _take_turn(self, job: Job) -> bool:
        outputs = job.derivation.output_paths
        async with self._admission.admitted(job):
            lease = await self._locks.try_acquire(outputs)
            if lease is None:
                return False
            async with lease:
                lease.delete_on_release()
                with self._holders.holding(job, outputs):
                    await self._make(job)
            return True

    async def _wait_for_locks(self, job: Job) -> None:
        outputs = job.derivation.output_paths
        unknown = "another process builds the same outputs"
        acquire = partial(self._locks.acquire, outputs)
        async with await self._holders.awaited(job, outputs, unknown, acquire):
            job.proceed(JobState.WAITING_FOR_SLOT)

    async def _make(self, job: Job) -> None:
        job.proceed(JobState.PREPARING)
        missing = self._missing(job)
        match job.key.mode:
            case BuildMode.NORMAL:
                if missing:
                    self._refuse_known_failure(job, missing)
                    await self._builder.build(job, missing)
            case BuildMode.CHECK:
                if missing:
                    raise BuildError(
                        f"`{job.path}' is missing outputs; build it normally before using `--check'"
                    )
                await self._builder.check(job)
            case BuildMode.REPAIR:
                await self._builder.repair(job, missing)

    async def remember_failure(self, job: Job, error: BuildError) -> None:
        """Remember a failure for good, where that is wanted and another try would fail as well."""
        normal = job.key.mode is BuildMode.NORMAL
        if normal and self._caches_failures(job) and error.kind in LASTING:
            await self._database.register_failed(job.derivation.output_paths)

    def _caches_failures(self, job: Job) -> bool:
        wish = job.options.cache_failures
        return self._settings.cache_failures if wish is None else wish

    def _refuse_known_failure(self, job: Job, missing: Sequence[StorePath]) -> None:
        if not self._caches_failures(job):
            return
        for path in missing:
            if self._database.has_failed(path):
                raise BuildError(
                    f"builder for `{path}' failed previously (cached)", FailureKind.CACHED
                )
