# SPDX-License-Identifier: GPL-3.0-or-later
"""Building one derivation whose locks are held: from its inputs to registered outputs.

The builder works in directories that are its own, and is gone before anybody
looks at what it left. The outputs are then sealed by a store worker: checked,
made canonical, hashed, searched for references and moved into the store, all
through directory descriptors. What was hashed is what is registered.
"""

import errno
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import trio

from builder.attempt import Attempt, failed_exit
from builder.builtins import Builtins
from builder.circumstances import Circumstances
from builder.container import Container
from builder.derivation_cache import DerivationCache
from builder.directories import (
    BuildDirectories,
    make_isolated,
    make_open,
    private_directory,
    write_files,
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
from builder.input_locks import InputLocks
from builder.inputs import closure_of, direct_inputs
from builder.logfile import LogFile, LogFiles
from builder.memory.meters import Meters
from builder.options import BuildMode, BuildSettings
from builder.outputs.cleaning import Cleaner
from builder.outputs.keeping import Keeper
from builder.outputs.lookup import ContentLookup, remember
from builder.outputs.sealing import Sealer
from builder.outputs.shelves import shelves_for
from builder.plan import BuildPlan, Host, container_for
from builder.references_graph import graph_requests, graph_text
from builder.scheduling.jobs import Job, JobState
from builder.spawner.client import SetupError, Spawner, SpawnError
from builder.users import BuildUser, BuildUsers
from builder.views import Views, clean
from builder.watch import Limits
from store.content_index import ContentIndex
from store.database import NewItem, StoreDatabase
from store.info import PathInfo
from store.layout import Layout
from store.paths import StoreDirectory, StorePath, is_derivation, name_of
from store.worker.client import WorkerError

NO_SPACE = 8 * 1024 * 1024
"""Free bytes below which a failure may well be one of space, and is not held against the build."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all builds share.

    Attributes:
        layout: Where the store is.
        directory: The store's paths.
        settings: How this daemon builds.
        host: What matters of the machine.
        database: What is valid.
        derivations: Parsed derivations.
        spawner: Starts builders.
        sealer: Turns what they leave into store items.
        content_index: Which item has which content.
        lookup: Knows the contents of fixed outputs.
        cleaner: Deletes the rest.
        keeper: Keeps what users want to look at after a failure.
        users: Whom builders run as; None for the daemon's own user.
        logs: The logs of builds.
        builtins: How the builders are served that are part of the daemon.
        meters: Measure builders.
        input_locks: Keep what builders see; None where nobody needs it.
    """

    layout: Layout
    directory: StoreDirectory
    settings: BuildSettings
    host: Host
    database: StoreDatabase
    derivations: DerivationCache
    spawner: Spawner
    sealer: Sealer
    content_index: ContentIndex
    lookup: ContentLookup
    cleaner: Cleaner
    keeper: Keeper
    users: BuildUsers | None
    logs: LogFiles
    builtins: Builtins = field(default_factory=Builtins)
    meters: Meters = field(default_factory=partial(Meters, None))
    input_locks: InputLocks | None = None


MANY_INPUTS = 2000
"""Inputs from which a container is described in a thread: it takes some 5 µs an input."""

EXITED = frozenset({FailureKind.PERMANENT, FailureKind.TRANSIENT})
"""How a builder fails by its own exit, which may leave outputs that tell why."""


class Builder:
    """Builds, checks and repairs single derivations."""

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop
        self._views = Views()
        self._circumstances = Circumstances(
            workshop.settings,
            workshop.builtins,
            workshop.host.environment,
            workshop.database,
            workshop.layout.store,
        )
        self.refuse_unserved = self._circumstances.refuse_unserved

    async def build(self, job: Job, missing: Sequence[StorePath]) -> None:
        """Build a derivation and register those of its outputs that are missing.

        Raises:
            BuildError: The builder failed, or its outputs are not accepted.
        """
        if await self._shop.lookup.obtain_locked(job.path, job.derivation, job.audience.tell):
            return
        await self.remove_invalid(missing)
        rounds = 1 if job.derivation.is_fixed_output else job.options.rounds
        inputs = await self.inputs(job)
        started = trio.current_time()
        infos: list[PathInfo] = []
        for number in range(1, rounds + 1):
            if number > 1:
                # Without a container the last round's outputs are where this one's will be.
                await self.remove_invalid(missing)
            async with self._run(job, inputs) as left:
                earlier, infos = infos, await self._shop.sealer.seal(job, left, inputs, missing)
                _compare_rounds(job, earlier, infos)
                if number == rounds:
                    with trio.CancelScope(shield=True):
                        self._shop.sealer.place(job, left, missing)
                        await self._register(job, infos)
        remember(self._shop.content_index, job.derivation, infos)
        seconds = trio.current_time() - started
        job.audience.tell(BuildSucceeded(job.path, job.derivation.output_paths, seconds))

    async def check(self, job: Job) -> None:
        """Build a derivation whose outputs are valid again, and compare.

        Raises:
            BuildError: The builder failed, or made something else.
        """
        self._need_container(job, "checking a build")
        inputs = await self.inputs(job)
        started = trio.current_time()
        async with self._run(job, inputs) as left:
            outputs = job.derivation.output_paths
            for info in await self._shop.sealer.seal(job, left, inputs, outputs):
                await self._compare_with_registered(job, left, info)
        seconds = trio.current_time() - started
        job.audience.tell(BuildSucceeded(job.path, job.derivation.output_paths, seconds))

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
        inputs = await self.inputs(job)
        started = trio.current_time()
        async with self._run(job, inputs) as left:
            infos = await self._shop.sealer.seal(job, left, inputs, wanted)
            with trio.CancelScope(shield=True):
                # What is damaged has to go first, however large it is.
                await trio.to_thread.run_sync(self._shop.sealer.place, job, left, wanted)
                await self._register(job, infos)
        seconds = trio.current_time() - started
        job.audience.tell(BuildSucceeded(job.path, job.derivation.output_paths, seconds))

    async def _register(self, job: Job, infos: Sequence[PathInfo]) -> None:
        """Register what was placed; whoever places shields both, for neither is sound alone."""
        job.proceed(JobState.REGISTERING)
        await self._shop.database.register([NewItem(info) for info in infos])

    @asynccontextmanager
    async def _run(self, job: Job, inputs: frozenset[StorePath]) -> AsyncIterator[BuildDirectories]:
        """Run the builder; inside, its outputs lie in the directories, and it is gone."""
        with self._locked(inputs):
            async with self._user(job) as user:
                while True:
                    directories = await self._directories(job, user, inputs)
                    async with self._cleaned_up(job, directories):
                        if await self._execute(job, directories, inputs, user):
                            yield directories
                            return

    @asynccontextmanager
    async def _cleaned_up(self, job: Job, directories: BuildDirectories) -> AsyncIterator[None]:
        discarded = directories.deletable
        try:
            yield
        except BuildError as error:
            if job.options.keep_failed and not job.retried(error):
                if error.kind in EXITED and self._has_own_outputs(job):
                    await self._keep_outputs(job, directories)
                await self._shop.keeper.keep(job, directories)
                discarded = tuple(each for each in discarded if each != directories.top)
            raise
        finally:
            self._shop.cleaner.discard(discarded)

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

    def _locked(self, inputs: frozenset[StorePath]) -> AbstractContextManager[None]:
        locks = self._shop.input_locks
        return nullcontext() if locks is None else locks.held(inputs)

    @asynccontextmanager
    async def _user(self, job: Job) -> AsyncIterator[BuildUser | None]:
        if self._shop.users is None:
            yield None
            return

        def waiting(busy: int) -> None:
            count = "1 build is" if busy == 1 else f"{busy} builds are"
            reason = f"{count} running, as all users that there are"
            job.wait(JobState.WAITING_FOR_USER, "build user", reason)

        async with self._shop.users.borrow(waiting) as user:
            job.proceed(JobState.PREPARING)
            yield user

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
    ) -> bool:
        """Run the builder to its end; tell False where it has to be tried without a view."""
        if graphs := await self._graphs(job):
            write_files(directories.workplace.build, graphs)
        plan = self._plan(job, directories, inputs | await self._circumstances.tools(job), user)
        container = await self._container(plan)
        if plan.shelves is not None:
            await self._shop.content_index.flush()
        log = self.open_log(job)
        store = self._shop.layout.store
        attempt = Attempt(
            job, container, plan.network, store, log, self.limits(job), self._shop.meters
        )
        try:
            status = await attempt.run(self._shop.spawner)
        except SpawnError as error:
            if self._views.were_refused(error):
                return False
            raise await self._spawn_failed(attempt, error) from error
        finally:
            if log is not None:
                await log.close()
        if not status.succeeded:
            raise failed_exit(job, status, disk_full=self._disk_full(directories))
        if directories.workplace.view is not None:
            await trio.to_thread.run_sync(clean, directories.workplace.store)
        return True

    def _plan(
        self,
        job: Job,
        directories: BuildDirectories,
        inputs: frozenset[StorePath],
        user: BuildUser | None,
    ) -> BuildPlan:
        return BuildPlan(
            derivation=job.derivation,
            workplace=directories.workplace,
            store=self._shop.layout.store,
            inputs=tuple(sorted(inputs)),
            user=user,
            isolated=self._circumstances.is_isolated(job),
            cores=job.options.cores,
            network=self._circumstances.network(job),
            drv=job.path,
            manner=self._circumstances.manner(job),
            builtins=self._shop.builtins,
            traces=job.options.download_traces,
            shelves=shelves_for(self._shop.layout, job.derivation, self._circumstances.manner(job)),
        )

    def open_log(self, job: Job) -> LogFile | None:
        """Create the log file of a build; None if logs are not kept."""
        wish = job.options.keep_log
        if not (self._shop.settings.keep_log if wish is None else wish):
            return None
        return self._shop.logs.create(job.path)

    def limits(self, job: Job) -> Limits:
        """Return what a builder may do."""
        options, size = job.options, job.options.max_log_size
        if size is None:
            size = self._shop.settings.max_log_size
        return Limits(options.timeout, options.max_silent_time, size)

    async def _container(self, plan: BuildPlan) -> Container:
        try:
            if len(plan.inputs) < MANY_INPUTS:
                return container_for(plan, self._shop.host)
            return await trio.to_thread.run_sync(container_for, plan, self._shop.host)
        except ValueError as error:
            # A derivation can hold texts that no process can be given, such as a NUL.
            raise BuildError(
                f"cannot run the builder as the derivation says: {error}",
                FailureKind.INPUT_REJECTED,
            ) from error

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

    async def inputs(self, job: Job) -> frozenset[StorePath]:
        """Return the items that a builder may see."""
        direct = direct_inputs(job.derivation, self._shop.derivations.get)
        return await closure_of(self._shop.database, direct)

    async def _graphs(self, job: Job) -> dict[str, str]:
        attribute = job.derivation.env.get("exportReferencesGraph", "")
        requests = graph_requests(attribute, self._shop.directory)
        return {name: await self._graph(path) for name, path in requests}

    async def _graph(self, path: StorePath) -> str:
        database = self._shop.database
        if not database.is_valid(path):
            raise BuildError(
                f"`exportReferencesGraph' contains an invalid path `{path}'",
                FailureKind.INPUT_REJECTED,
            )
        closure = await closure_of(database, [path])
        # A closure with derivations in it stands for what they make as well.
        outputs = [
            output
            for drv in closure
            if is_derivation(drv)
            for output in self._shop.derivations.get(drv).output_paths
        ]
        whole = await closure_of(database, [*closure, *outputs])
        return graph_text(map(database.path_info, whole))

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
