# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that builds, put together.

Entry point: `make_building`, then `Building.run` as a task for as long as there
are clients; `Building.scheduler` is what they talk to.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import trio

from builder.build import Builder, Workshop
from builder.cleaning import Cleaner
from builder.container import DEVICES
from builder.derivation_cache import DerivationCache
from builder.keeping import Keeper
from builder.options import BuildSettings
from builder.plan import Host
from builder.planner import Planner
from builder.platforms import Machine
from builder.realise import Realiser
from builder.scheduler import Scheduler
from builder.sealing import Sealer
from builder.slots import Slots
from builder.spawner.client import Spawner
from builder.users import BuildUser, BuildUsers
from locker.pathlocks import PathLocks
from store.database import StoreDatabase
from store.derivations import Derivation, parse_derivation
from store.layout import Layout
from store.paths import StoreDirectory, StorePath
from store.worker.client import StoreWorkers

IDLE_SECONDS = 5
"""How long build users stay ours after the last build, so that a chain of builds keeps them."""


@dataclass(frozen=True, slots=True)
class Building:
    """The parts that build.

    Attributes:
        scheduler: Takes requests.
        slots: The build slots.
        derivations: Parsed derivations.
        cleaner: Deletes what builds leave.
        users: Whom builders run as; None for the daemon's own user.
    """

    scheduler: Scheduler
    slots: Slots
    derivations: DerivationCache
    cleaner: Cleaner
    users: BuildUsers | None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Build until cancelled."""
        async with trio.open_nursery() as outer:
            await outer.start(self.cleaner.run)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.scheduler.run)
                if self.users is not None:
                    nursery.start_soon(self._return_users, self.users)
                task_status.started()

    async def _return_users(self, users: BuildUsers) -> None:
        try:
            while True:
                await trio.sleep(IDLE_SECONDS)
                if not self.slots.statistics().taken:
                    users.release_idle()
        finally:
            users.release_idle()


def make_building(
    layout: Layout,
    settings: BuildSettings,
    database: StoreDatabase,
    locks: PathLocks,
    workers: StoreWorkers,
    spawner: Spawner,
    environment: Mapping[str, str],
) -> Building:
    """Put together what builds.

    Args:
        layout: Where the store is.
        settings: How to build.
        database: What is valid.
        locks: The locks of items.
        workers: Seal, hash and delete.
        spawner: Starts builders.
        environment: Where fixed outputs may take variables from.
    """
    directory = StoreDirectory(layout.store)
    derivations = DerivationCache(_read, lambda text, path: _parse(text, path, directory))
    cleaner = Cleaner(workers.delete)
    users = _users(layout, settings, spawner)
    shop = Workshop(
        layout=layout,
        directory=directory,
        settings=settings,
        host=_host(settings, environment),
        database=database,
        derivations=derivations,
        spawner=spawner,
        sealer=Sealer(layout, directory, database, workers, deduplicate=settings.deduplicate),
        cleaner=cleaner,
        keeper=Keeper(workers.delete),
        users=users,
    )
    realiser = Realiser(settings, database, locks, Builder(shop))
    scheduler = Scheduler(directory, Planner(database, derivations.get), realiser)
    return Building(scheduler, realiser.slots, derivations, cleaner, users)


def _read(path: StorePath) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _parse(text: bytes, path: StorePath, directory: StoreDirectory) -> Derivation:
    return parse_derivation(text, directory, path)


def _users(layout: Layout, settings: BuildSettings, spawner: Spawner) -> BuildUsers | None:
    group = settings.build_users_group
    if not group:
        return None

    async def kill(user: BuildUser) -> None:
        await spawner.kill_processes_of(user.uid)

    return BuildUsers(group, layout.user_pool, kill)


def _host(settings: BuildSettings, environment: Mapping[str, str]) -> Host:
    devices = (*DEVICES, "kvm") if os.path.exists("/dev/kvm") else DEVICES
    return Host(
        machine=Machine(settings.system, os.uname().machine),
        environment=environment,
        devices=devices,
        chroot_directories=settings.chroot_directories,
        impersonate_linux_26=settings.impersonate_linux_26,
    )
