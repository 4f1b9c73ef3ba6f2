# SPDX-License-Identifier: GPL-3.0-or-later
"""Realising a derivation whose inputs are valid: a slot, locks, and a build if it must be.

A build slot is never held while waiting for a lock, nor a lock while waiting for
a slot: a turn takes a slot, tries the locks of the outputs, and gives the slot
back where another process has them. Whatever somebody else made valid meanwhile
is taken as it is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from builder.build import Builder
from builder.errors import BuildError
from builder.events import FailureKind
from builder.jobs import Job, JobState
from builder.options import BuildMode, BuildOptions, BuildSettings
from builder.slots import Slots
from locker.pathlocks import PathLocks
from store.database import StoreDatabase
from store.paths import StorePath

LASTING = frozenset(
    {FailureKind.PERMANENT, FailureKind.OUTPUT_REJECTED, FailureKind.NOT_DETERMINISTIC}
)
"""Failures that are remembered, where that is wanted: another try would fail as well."""


class Realiser:
    """Does the jobs of a scheduler.

    Args:
        settings: How this daemon builds.
        database: What is valid.
        locks: The locks of items.
        builder: Runs builders.
    """

    def __init__(
        self, settings: BuildSettings, database: StoreDatabase, locks: PathLocks, builder: Builder
    ) -> None:
        self._settings = settings
        self._database = database
        self._locks = locks
        self._builder = builder
        self._asked: list[int] = []
        self.slots = Slots(settings.max_jobs)

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
        self._refuse_impossible(job)
        while not await self._take_turn(job):
            await self._wait_for_locks(job)

    def _resize(self) -> None:
        self.slots.resize(max(self._settings.max_jobs, *self._asked, 0))

    def _refuse_impossible(self, job: Job) -> None:
        if self.slots.capacity == 0:
            raise BuildError(
                "unable to start any build; either increase `--max-jobs' "
                "or enable distributed builds"
            )
        if job.derivation.is_builtin:
            raise BuildError(
                f"builder `{job.derivation.builder}' of `{job.path}' is not supported yet",
                FailureKind.INPUT_REJECTED,
            )

    async def _take_turn(self, job: Job) -> bool:
        await self._wait_for_slot(job)
        try:
            async with self._locks.try_hold(job.derivation.output_paths) as held:
                if held is None:
                    return False
                held.delete_on_release()
                await self._make(job)
                return True
        finally:
            self.slots.release()

    async def _wait_for_slot(self, job: Job) -> None:
        if not self.slots.acquire_nowait():
            taken = self.slots.statistics().taken
            job.wait(JobState.WAITING_FOR_SLOT, "build slot", f"{taken} builds are running")
            await self.slots.acquire(job.asker)

    async def _wait_for_locks(self, job: Job) -> None:
        job.wait(JobState.WAITING_FOR_LOCK, "lock", "another process builds the same outputs")
        async with self._locks.hold(job.derivation.output_paths):
            job.proceed(JobState.WAITING_FOR_SLOT)

    async def _make(self, job: Job) -> None:
        job.proceed(JobState.PREPARING)
        missing = [p for p in job.derivation.output_paths if not self._database.is_valid(p)]
        match job.key.mode:
            case BuildMode.NORMAL:
                if missing:
                    self._refuse_known_failure(missing)
                    await self._build(job, missing)
            case BuildMode.CHECK:
                if missing:
                    raise BuildError(
                        f"`{job.path}' is missing outputs; build it normally before using `--check'"
                    )
                await self._builder.check(job)
            case BuildMode.REPAIR:
                await self._builder.repair(job, missing)

    async def _build(self, job: Job, missing: Sequence[StorePath]) -> None:
        try:
            await self._builder.build(job, missing)
        except BuildError as error:
            if self._settings.cache_failures and error.kind in LASTING:
                await self._database.register_failed(job.derivation.output_paths)
            raise

    def _refuse_known_failure(self, missing: Sequence[StorePath]) -> None:
        if not self._settings.cache_failures:
            return
        for path in missing:
            if self._database.has_failed(path):
                raise BuildError(
                    f"builder for `{path}' failed previously (cached)", FailureKind.CACHED
                )
