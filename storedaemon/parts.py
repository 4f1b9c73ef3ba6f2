# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the parts of a daemon that are not basic, and connecting them.

What is opened here is entered on an exit stack, so that it is closed in the
opposite order. Entry points: `HelperClients.of`, `assemble`.
"""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from builder.options import BuildOptions, Client
from builder.retries.history import History
from builder.spawner.client import Spawner
from locker.pathlocks import PathLocks
from reaper.monitor import ProcessMonitor
from store.additions import StoreWriter
from store.collection import Collector
from store.collection.collector import Surroundings
from store.content_index import ContentIndex
from store.content_sources.sources import ContentSources
from store.errors import StoreError
from store.last_uses import LastUses
from store.root_finder import RootFinder
from store.worker.client import StoreWorkers
from storedaemon.authentication import Authenticator
from storedaemon.basics import Basics
from storedaemon.building import Materials, make_building, system_of_this_machine
from storedaemon.busy import list_busy
from storedaemon.config import Config
from storedaemon.detached import DetachedBuilds
from storedaemon.detached_record import DetachedRecord, Wanted
from storedaemon.guix_program import find_guix, guix_environment
from storedaemon.helpers import Helpers
from storedaemon.peers import Peers
from storedaemon.services import Services
from storedaemon.session_options import build_options
from storedaemon.settings import build_settings
from storedaemon.substituting import SubstituteSettings


@dataclass(frozen=True, slots=True)
class HelperClients:
    """The daemon's side of its helper processes, but for the locker's."""

    spawner: Spawner
    workers: StoreWorkers

    @classmethod
    def of(cls, helpers: Helpers, monitor: ProcessMonitor) -> "HelperClients":
        """Make the clients of helpers, whose channels stay theirs to close."""
        return cls(
            Spawner.from_helper(helpers.spawner, monitor),
            StoreWorkers.from_helpers(helpers.workers),
        )

    def tasks(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """Name what must run for as long as the helpers are used."""
        yield "spawner", self.spawner.run
        yield "workers", self.workers.run


async def assemble(basics: Basics, clients: HelperClients, stack: AsyncExitStack) -> Services:
    """Open what lies beside the database, and make everything that works with it.

    Raises:
        StoreError: Something of it cannot be used.
    """
    config, monitor, locker = basics.config, basics.monitor, basics.locker
    directory, database, temp_roots = basics.directory, basics.database, basics.temp_roots
    layout = basics.layout
    settings = build_settings(config, system_of_this_machine())
    index = await stack.enter_async_context(ContentIndex.open(layout))
    sources = await stack.enter_async_context(ContentSources.open(layout, config.content_sources))
    uses = await stack.enter_async_context(LastUses.open(layout))
    temp_roots.observe(uses.record)
    history = await stack.enter_async_context(History.open(layout))
    locks = PathLocks(locker)
    writer = await stack.enter_async_context(
        StoreWriter.open(
            layout, database, locks, temp_roots, index, deduplicate=settings.deduplicate
        )
    )
    environment = guix_environment(config, os.environ)
    materials = Materials(
        layout=layout,
        directory=directory,
        settings=settings,
        database=database,
        content_index=index,
        content_sources=sources,
        history=history,
        locks=locks,
        monitor=monitor,
        spawner=clients.spawner,
        workers=clients.workers,
        environment=environment,
        substitutes=SubstituteSettings(
            find_guix(config, environment),
            environment,
            config.max_substitutes,
        ),
        offload_program="" if config.no_offload else find_guix(config, environment),
        guix=find_guix(config, environment),
    )
    building = make_building(materials)
    writer.observe_derivations(building.derivations.learn)
    detached_record = await stack.enter_async_context(DetachedRecord.open(layout))
    authenticator = Authenticator.of(config, monitor)
    stack.push_async_callback(authenticator.close)
    root_finder = RootFinder(layout, database)
    surroundings = Surroundings(
        layout=layout,
        database=database,
        workers=clients.workers,
        locker=locker,
        temp_roots=temp_roots,
        root_finder=root_finder,
        needed=building.scheduler.in_use,
        busy=partial(list_busy, monitor, find_guix(config, environment), layout, environment),
        deduplicated=settings.deduplicate,
        uses=uses,
    )
    return Services(
        config=config,
        layout=layout,
        directory=directory,
        settings=settings,
        database=database,
        writer=writer,
        content_index=index,
        content_sources=sources,
        history=history,
        locks=locks,
        locker=locker,
        workers=clients.workers,
        spawner=clients.spawner,
        temp_roots=temp_roots,
        root_finder=root_finder,
        collector=Collector(surroundings),
        last_uses=uses,
        monitor=monitor,
        building=building,
        scheduler=building.scheduler,
        detached=DetachedBuilds(
            building.scheduler,
            temp_roots,
            config.keep_detached,
            detached_record,
            partial(_recall, config, basics.peers),
        ),
        homes=basics.homes,
        authenticator=authenticator,
        peers=basics.peers,
        sessions=basics.sessions,
        request_memory=basics.request_memory,
    )


async def _recall(config: Config, peers: Peers, wanted: Wanted) -> tuple[Client, BuildOptions]:
    """Tell who wants a build that was remembered, and how; see `DetachedBuilds`."""
    owner = await peers.recognise(wanted.uid, wanted.gid, 0)
    if wanted.trusted and not owner.trusted:
        raise StoreError(f"user {owner.user} is no longer trusted", reason="not-privileged")
    return owner, build_options(wanted.options, config, wanted.mode)
