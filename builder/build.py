# SPDX-License-Identifier: GPL-3.0-or-later
"""Building one derivation whose locks are held: from its inputs to registered outputs.

The builder works in directories that are its own, and is gone before anybody
looks at what it left. The outputs are then sealed by a store worker: checked,
made canonical, hashed, searched for references and moved into the store, all
through directory descriptors. What was hashed is what is registered.
"""

import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import trio

from builder.attempt import Attempt, failed_exit
from builder.container import Container
from builder.directories import (
    BuildDirectories,
    make_isolated,
    make_open,
    private_directory,
)
from builder.errors import BuildError
from builder.events import (
    BuildSucceeded,
    FailureKind,
    Level,
    Message,
    OutputConfirmed,
    UnsupportedPlatform,
)
from builder.logfile import LogFile
from builder.network import Network
from builder.options import BuildMode
from builder.outputs.lookup import remember
from builder.preparing import Preparer
from builder.scheduling.jobs import Job, JobState
from builder.spawner.client import SetupError, SpawnError
from builder.users import BuildUser
from builder.views import Views, clean
from builder.watch import Limits
from builder.workshop import Workshop
from reaper.process import ExitStatus
from store.database import NewItem
from store.info import PathInfo
from store.paths import StorePath, name_of
from store.worker.client import WorkerError

T = TypeVar("T")

NO_SPACE = 8 * 1024 * 1024
"""Free bytes below which a failure may well be one of space, and is not held against the build."""


EXITED = frozenset({FailureKind.PERMANENT, FailureKind.TRANSIENT})
"""How a builder fails by its own exit, which may leave outputs that tell why."""


class _ViewRefusedError(Exception):
    """A view could not be made; none is tried again."""


class Builder:
    """Builds, checks and repairs single derivations."""

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop
        self._views = Views()
        self.preparer = Preparer(workshop)
        self._circumstances = self.preparer.circumstances
        self.refuse_unserved = self._circumstances.refuse_unserved

    async def build(self, job: Job, missing: Sequence[StorePath]) -> None:
        """Build a derivation and register those of its outputs that are missing.

        Raises:
            BuildError: The builder failed, or its outputs are not accepted.
        """
        if await self._shop.lookup.obtain_locked(
            job.path, job.derivation, job.audience.tell, keep_log=job.options.keep_log
        ):
            return
        await self.remove_invalid(missing)
        rounds = 1 if job.derivation.is_fixed_output else job.options.rounds
        inputs = await self.preparer.inputs(job)
        started = trio.current_time()
        infos: list[PathInfo] = []
        for _ in range(rounds - 1):
            attempt = partial(self._seal_round, job, inputs, missing, infos)
            infos = await self._run(job, inputs, attempt)
            # Without a container the last round's outputs are where this one's will be.
            await self.remove_invalid(missing)
        await self._run(job, inputs, partial(self._accept, job, inputs, missing, infos, started))

    async def _seal_round(
        self,
        job: Job,
        inputs: frozenset[StorePath],
        missing: Sequence[StorePath],
        earlier: Sequence[PathInfo],
        left: BuildDirectories,
    ) -> list[PathInfo]:
        infos = await self._shop.sealer.seal(job, left, inputs, missing)
        _compare_rounds(job, earlier, infos)
        return infos

    async def _accept(
        self,
        job: Job,
        inputs: frozenset[StorePath],
        missing: Sequence[StorePath],
        earlier: Sequence[PathInfo],
        started: float,
        left: BuildDirectories,
    ) -> None:
        job.builder_ended()
        infos = await self._seal_round(job, inputs, missing, earlier, left)
        with trio.CancelScope(shield=True):
            self._shop.sealer.place(job, left, missing)
            await self._register(job, infos)
        remember(self._shop.content_index, job.derivation, infos)
        seconds = trio.current_time() - started
        job.audience.tell(BuildSucceeded(job.path, job.derivation.output_paths, seconds))
        await job.hand_over()

    async def check(self, job: Job) -> None:
        """Build a derivation whose outputs are valid again, and compare.

        Raises:
            BuildError: The builder failed, or made something else.
        """
        self._need_container(job, "checking a build")
        inputs = await self.preparer.inputs(job)
        started = trio.current_time()
        await self._run(job, inputs, partial(self._compare, job, inputs))
        seconds = trio.current_time() - started
        job.audience.tell(BuildSucceeded(job.path, job.derivation.output_paths, seconds))

    async def _compare(
        self, job: Job, inputs: frozenset[StorePath], left: BuildDirectories
    ) -> None:
        job.builder_ended()
        outputs = job.derivation.output_paths
        for info in await self._shop.sealer.seal(job, left, inputs, outputs):
            await self._compare_with_registered(job, left, info)

    async def repair(self, job: Job, missing: Sequence[StorePath]) -> None:
        """Build again those outputs that are missing or damaged, and put them in their places.

        Raises:
            BuildError: The builder failed, or its outputs are not accepted.
        """
        self._need_container(job, "repairing a build")
        damaged = await self._damaged(job, missing)
        wanted = sorted({*missing, *damaged})
        if not wanted:
            return
        inputs = await self.preparer.inputs(job)
        started = trio.current_time()
        await self._run(job, inputs, partial(self._replace, job, inputs, wanted))
        seconds = trio.current_time() - started
        job.audience.tell(BuildSucceeded(job.path, job.derivation.output_paths, seconds))

    async def _replace(
        self,
        job: Job,
        inputs: frozenset[StorePath],
        wanted: Sequence[StorePath],
        left: BuildDirectories,
    ) -> None:
        job.builder_ended()
        infos = await self._shop.sealer.seal(job, left, inputs, wanted)
        with trio.CancelScope(shield=True):
            # What is damaged has to go first, however large it is.
            await trio.to_thread.run_sync(self._shop.sealer.place, job, left, wanted)
            await self._register(job, infos)

    async def _register(self, job: Job, infos: Sequence[PathInfo]) -> None:
        """Register what was placed; whoever places shields both, for neither is sound alone."""
        job.proceed(JobState.REGISTERING)
        await self._shop.database.register([NewItem(info) for info in infos])

    async def _run(
        self,
        job: Job,
        inputs: frozenset[StorePath],
        use: Callable[[BuildDirectories], Awaitable[T]],
    ) -> T:
        """Run the builder, then use what it left in its directories; it is gone by then."""
        with self.preparer.locked(inputs):
            async with self.preparer.user(job) as user:
                job.proceed(JobState.PREPARING)
                try:
                    return await self._run_as(user, job, inputs, use)
                except _ViewRefusedError:
                    return await self._run_as(user, job, inputs, use)

    async def _run_as(
        self,
        user: BuildUser | None,
        job: Job,
        inputs: frozenset[StorePath],
        use: Callable[[BuildDirectories], Awaitable[T]],
    ) -> T:
        directories = await self._directories(job, user, inputs)
        discarded = directories.deletable
        try:
            await self._execute(job, directories, inputs, user)
            return await use(directories)
        except BuildError as error:
            if await self._keeps(job, directories, error):
                discarded = tuple(each for each in discarded if each != directories.top)
            raise
        finally:
            self._shop.cleaner.discard(discarded)

    async def _keeps(self, job: Job, directories: BuildDirectories, error: BuildError) -> bool:
        """Keep the build directory of a failed build, if that is wanted; tell whether it is."""
        if not job.options.keep_failed or job.retried(error):
            return False
        if error.kind in EXITED and self._has_own_outputs(job):
            await self._keep_outputs(job, directories)
        await self._shop.keeper.keep(job, directories)
        return True

    def _has_own_outputs(self, job: Job) -> bool:
        """Tell whether outputs are made beside the store, and are nowhere in it yet."""
        return self._circumstances.is_isolated(job) and job.key.mode is BuildMode.NORMAL

    async def _keep_outputs(self, job: Job, directories: BuildDirectories) -> None:
        """Leave what a failed builder made of its outputs in the store, for who looks for it."""
        outputs = job.derivation.output_paths
        missing = [path for path in outputs if not self._shop.database.is_valid(path)]
        for output in _made(directories, missing):
            try:
                await self._shop.sealer.keep_failed(job, directories, output)
            except WorkerError as error:
                job.audience.tell(Message(error.message, Level.ERROR))

    async def _directories(
        self, job: Job, user: BuildUser | None, inputs: frozenset[StorePath]
    ) -> BuildDirectories:
        settings, name = self._shop.settings, name_of(job.path)
        await self._shop.cleaner.vacate(private_directory(job.path))
        if not self._circumstances.is_isolated(job):
            store = self._shop.layout.store
            return make_open(settings.build_directory, store, job.path, name, user)
        view = self._views.choose(len(inputs), user)
        return make_isolated(settings.build_directory, job.path, name, user, view=view)

    async def _execute(
        self,
        job: Job,
        directories: BuildDirectories,
        inputs: frozenset[StorePath],
        user: BuildUser | None,
    ) -> None:
        """Run the builder to its end, which must be success."""
        await self.preparer.write_graphs(job, directories)
        async with self.preparer.job_tokens(job, directories, inputs) as fifo:
            container, network = await self.preparer.furnish(job, directories, inputs, user, fifo)
            status = await self._attempt(job, container, network)
        if not status.succeeded:
            raise failed_exit(job, status, disk_full=self._disk_full(directories))
        if directories.workplace.view is not None:
            await trio.to_thread.run_sync(clean, directories.workplace.store)

    async def _attempt(self, job: Job, container: Container, network: Network) -> ExitStatus:
        """Run a container to its end, however that is."""
        attempt = Attempt(
            job,
            container,
            network,
            self._shop.layout.store,
            partial(self.open_log, job),
            self.limits(job),
            self._shop.meters,
        )
        try:
            return await attempt.run(self._shop.spawner)
        except SpawnError as error:
            if self._views.were_refused(error):
                raise _ViewRefusedError from error
            raise await self._spawn_failed(attempt, error) from error
        finally:
            if attempt.log is not None:
                await attempt.log.close()

    def open_log(self, job: Job) -> LogFile | None:
        """Create the log file of a build; None if logs are not kept."""
        return self._shop.logs.create_wished(job.path, wish=job.options.keep_log)

    def limits(self, job: Job) -> Limits:
        """Return what a builder may do."""
        options, size = job.options, job.options.max_log_size
        if size is None:
            size = self._shop.settings.max_log_size
        return Limits(options.timeout, options.max_silent_time, size)

    async def _spawn_failed(self, attempt: Attempt, error: SpawnError) -> BuildError:
        if not (isinstance(error, SetupError) and error.is_execution):
            return BuildError(str(error), FailureKind.INPUT_REJECTED)
        reason = self._why_not_executed(attempt.job, error)
        await attempt.tell_unexecuted(error.pid or os.getpid(), reason)
        return BuildError(reason, FailureKind.NOT_EXECUTED)

    def _why_not_executed(self, job: Job, error: SetupError) -> str:
        machine, system = self._shop.host.machine, job.derivation.system
        if not error.errno:
            return error.text
        if error.errno != errno.ENOEXEC or machine.can_build(system):
            return f"executing `{job.derivation.builder}': {os.strerror(error.errno)}"
        job.audience.tell(UnsupportedPlatform(job.path, system))
        return f"a `{system}' is required to build `{job.path}', but I am a `{machine.system}'"

    def _disk_full(self, directories: BuildDirectories) -> bool:
        places = (self._shop.layout.store, directories.workplace.build)
        statuses = map(os.statvfs, places)
        return any(each.f_bavail * each.f_bsize < NO_SPACE for each in statuses)

    async def remove_invalid(self, outputs: Sequence[StorePath]) -> None:
        """Delete what lies in the places of outputs that are not valid."""
        for path in outputs:
            await self._shop.cleaner.vacate(path)

    async def _damaged(self, job: Job, missing: Sequence[StorePath]) -> list[StorePath]:
        valid = [path for path in job.derivation.output_paths if path not in missing]
        infos = [self._shop.database.path_info(path) for path in valid]
        return [info.path for info in infos if not await self._shop.sealer.is_intact(info)]

    def _need_container(self, job: Job, what: str) -> None:
        if not self._circumstances.is_isolated(job):
            raise BuildError(
                f"{what} needs a container, since the outputs of `{job.path}' exist: "
                "run the daemon without `--disable-chroot'"
            )

    async def _compare_with_registered(
        self, job: Job, left: BuildDirectories, info: PathInfo
    ) -> None:
        if info.nar_hash == self._shop.database.path_info(info.path).nar_hash:
            job.audience.tell(OutputConfirmed(job.path, info.path))
            return
        differs = f"derivation `{job.path}' may not be deterministic: output `{info.path}' differs"
        if job.options.keep_failed:
            sealed = self._shop.sealer.sealed_path(job, left, info.path)
            kept = await self._shop.keeper.keep_output(sealed, info.path)
            differs = f"{differs} from `{kept}'"
        raise BuildError(differs, FailureKind.NOT_DETERMINISTIC)


def _compare_rounds(job: Job, earlier: Sequence[PathInfo], later: Sequence[PathInfo]) -> None:
    for one, other in zip(earlier, later, strict=False):
        if (one.nar_hash, one.references) != (other.nar_hash, other.references):
            raise BuildError(
                f"output `{one.path}' of `{job.path}' differs from previous round",
                FailureKind.OUTPUT_REJECTED,
            )


def _made(directories: BuildDirectories, outputs: Iterable[StorePath]) -> list[StorePath]:
    """Return the outputs of which a builder left anything."""
    names = set(os.listdir(directories.workplace.store))
    return [path for path in outputs if path.rpartition("/")[2] in names]
