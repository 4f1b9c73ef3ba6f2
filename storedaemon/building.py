# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting together what builds: from the scheduler down to the users that builders run as.

Entry point: `make_building`.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import trio

from builder.admission.gate import Admission
from builder.admission.machine import MachineReader
from builder.admission.slots import Slots
from builder.build import Builder
from builder.builtins import Builtins
from builder.container import DEVICES, Devices
from builder.derivation_cache import DerivationCache
from builder.entering.visits import Visits
from builder.eviction import end_processes
from builder.input_locks import InputLocks
from builder.jobserver.pool import Jobserver
from builder.logfile import LogFiles
from builder.memory.home import own_place
from builder.memory.meters import Meters
from builder.offload.builder import RemoteBuilder
from builder.offload.dispatch import Dispatcher
from builder.offload.hooks import Hooks
from builder.options import BuildSettings
from builder.outputs.cleaning import Cleaner, tree_deleter
from builder.outputs.keeping import Keeper
from builder.outputs.kept import record_kept
from builder.outputs.lookup import ContentLookup, ItemFinder
from builder.outputs.sealing import Sealer
from builder.plan import Host
from builder.planning.inspection import Inspections
from builder.planning.planner import Planner
from builder.platforms import Machine, native_system
from builder.retries.history import History
from builder.retries.retrier import Retrier
from builder.scheduling.realise import Realiser
from builder.scheduling.scheduler import Scheduler
from builder.spawner.client import Spawner
from builder.substitution.substituter import Substituter
from builder.toolkit import find_toolkit, usable_guix
from builder.users import BuildUsers, machine_pool
from builder.workshop import Workshop
from locker.pathlocks import PathLocks
from reaper.monitor import ProcessMonitor
from store.content_index import ContentIndex
from store.content_sources.sources import ContentSources
from store.database import StoreDatabase
from store.derivation_checks import read_text
from store.derivations import Derivation, derivation_name, parse_derivation
from store.layout import Layout
from store.paths import StoreDirectory, StorePath
from store.worker.client import StoreWorkers
from storedaemon.build_events import ReportedRealiser
from storedaemon.substituting import SubstituteSettings, Substituting, make_substituting

# Build users that were not needed for so long are left to other daemons, and build hooks end.
IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Materials:
    """What building needs of the daemon.

    Attributes:
        substitutes: How substitutes are looked for and downloaded.
        offload_program: The program ``guix`` whose build hook is asked; empty for none.
        guix: The same program, whose downloads are used if it exists.
        content_sources: Media that hold content.
    """

    layout: Layout
    directory: StoreDirectory
    settings: BuildSettings
    database: StoreDatabase
    content_index: ContentIndex
    history: History
    locks: PathLocks
    monitor: ProcessMonitor
    spawner: Spawner
    workers: StoreWorkers
    environment: Mapping[str, str]
    substitutes: SubstituteSettings = field(default_factory=SubstituteSettings)
    offload_program: str = ""
    guix: str = ""
    content_sources: ContentSources = field(default_factory=lambda: ContentSources((), None))


@dataclass(frozen=True, slots=True)
class Building:
    """The parts that build, and that must run while anything may be built.

    Attributes:
        scheduler: Builds what clients want.
        slots: How many builds run, may run, and wait.
        derivations: Those that were read lately.
        cleaner: Deletes what builds leave behind.
        users: Whom builders run as; None for the daemon's own user.
        hooks: The build hooks that wait for a question.
        logs: The logs of builds.
        builtins: How the builders are served that are part of the daemon.
        substituting: What substitutes.
        meters: Measure builders.
        input_locks: Keep what builders see.
        jobserver: Lends them job tokens; None where there are none.
        inspections: Look for damage on behalf of repairs.
        visits: Shells in the places of builders.
    """

    scheduler: Scheduler
    slots: Slots
    derivations: DerivationCache
    cleaner: Cleaner
    users: BuildUsers | None
    hooks: Hooks
    logs: LogFiles
    builtins: Builtins
    substituting: Substituting
    meters: Meters
    input_locks: InputLocks
    jobserver: Jobserver | None
    inspections: Inspections
    visits: Visits

    @property
    def substituter(self) -> Substituter:
        """Knows of substitutes, and downloads them."""
        return self.substituting.substituter

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Build until cancelled; the cleaner must run before, and until after."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._release_idle)
                nursery.start_soon(self.logs.run)
                nursery.start_soon(self.meters.run)
                nursery.start_soon(self.input_locks.run)
                if self.jobserver is not None:
                    nursery.start_soon(self.jobserver.run)
                await nursery.start(self.substituting.run)
                await nursery.start(self.scheduler.run)
                task_status.started()
        finally:
            if self.users is not None:
                self.users.release_idle()
            with trio.CancelScope(shield=True):
                await self.hooks.aclose()

    async def _release_idle(self) -> None:
        while True:
            await trio.sleep(IDLE_SECONDS)
            await self.hooks.release_idle(IDLE_SECONDS)
            if self.users is not None and not self.scheduler.snapshot():
                self.users.release_idle()


def make_building(materials: Materials) -> Building:
    """Make everything that builds."""
    directory, database = materials.directory, materials.database
    derivations = DerivationCache(partial(read_text, None), partial(_parse, directory))
    delete = tree_deleter(materials.workers)
    cleaner = Cleaner(delete)
    users = _users(materials)
    builtins = _builtins(materials, has_users=users is not None)
    settings = materials.settings
    logs = LogFiles(materials.layout.logs, settings.log_compression, keep=settings.keep_log)
    sealer = _sealer(materials)
    lookup = ContentLookup(
        database,
        materials.locks,
        derivations,
        cleaner,
        sealer,
        materials.content_index,
        logs,
        (
            ItemFinder(materials.layout.store, database, materials.content_index),
            materials.content_sources,
        ),
    )
    input_locks = InputLocks(materials.locks.locker)
    meters = Meters.of_machine(materials.settings.max_build_memory)
    tokens = materials.settings.job_tokens
    jobserver = Jobserver(tokens) if tokens else None
    workshop = Workshop(
        layout=materials.layout,
        directory=directory,
        settings=materials.settings,
        host=_host(materials),
        database=database,
        derivations=derivations,
        spawner=materials.spawner,
        sealer=sealer,
        content_index=materials.content_index,
        lookup=lookup,
        cleaner=cleaner,
        keeper=Keeper(delete, partial(record_kept, materials.layout.index_file)),
        users=users,
        builtins=builtins,
        logs=logs,
        meters=meters,
        input_locks=input_locks,
        jobserver=jobserver,
    )
    builder = Builder(workshop)
    hooks = Hooks(materials.offload_program, materials.environment, materials.monitor)
    machine = MachineReader(time.monotonic, place=own_place())
    admission = Admission(Slots(1), machine, materials.settings.admission)
    realiser = Realiser(
        materials.settings,
        database,
        materials.locks,
        builder,
        admission,
        Dispatcher(hooks, workshop.host.machine),
        RemoteBuilder(workshop, builder),
    )
    retrier = Retrier(realiser, materials.history, machine, realiser.remember_failure)
    substituting = make_substituting(
        materials.substitutes,
        directory,
        database,
        materials.locks,
        materials.monitor,
        cleaner,
        sealer,
    )
    inspections = Inspections(database, derivations.get, sealer.is_intact)
    scheduler = Scheduler(
        directory,
        Planner(database, derivations.load),
        ReportedRealiser(retrier),
        substituting.substituter,
        lookup,
        inspections.begin,
    )
    return Building(
        scheduler,
        admission.slots,
        derivations,
        cleaner,
        users,
        hooks,
        logs,
        builtins,
        substituting,
        meters,
        input_locks,
        jobserver,
        inspections,
        Visits(workshop, builder.preparer),
    )


def _parse(directory: StoreDirectory, text: bytes, path: StorePath) -> Derivation:
    return parse_derivation(text, directory, derivation_name(path))


def _builtins(materials: Materials, *, has_users: bool) -> Builtins:
    settings, store = materials.settings, materials.layout.store
    return Builtins(
        guix=usable_guix(materials.guix, has_users=has_users),
        toolkit=find_toolkit(store, materials.environment) if settings.use_chroot else None,
        content_mirrors=settings.content_mirrors,
        limit=settings.max_download_size,
    )


def _sealer(materials: Materials) -> Sealer:
    return Sealer(
        materials.layout,
        materials.directory,
        materials.database,
        materials.workers,
        deduplicate=materials.settings.deduplicate,
    )


def _users(materials: Materials) -> BuildUsers | None:
    group = materials.settings.build_users_group
    if not group or os.geteuid() != 0:
        return None
    pools = (materials.layout.user_pool, *machine_pool())
    return BuildUsers(group, pools, partial(end_processes, materials.monitor))


def _host(materials: Materials) -> Host:
    settings = materials.settings
    return Host(
        machine=Machine(settings.system, os.uname().machine),
        environment=materials.environment,
        devices=Devices(nodes=(*DEVICES, "kvm") if os.path.exists("/dev/kvm") else DEVICES),
        chroot_directories=settings.chroot_directories,
        impersonate_linux_26=settings.impersonate_linux_26,
    )


def system_of_this_machine() -> str:
    """Name the system whose programs run here, as Guix names it."""
    return native_system(os.uname().machine)
