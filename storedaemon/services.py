# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that operations work with, in one place, made once when the daemon starts."""

from dataclasses import dataclass

from builder.options import BuildSettings
from builder.retries.history import History
from builder.scheduling.scheduler import Scheduler
from builder.spawner.client import Spawner
from locker.pathlocks import PathLocks
from store.additions import StoreWriter
from store.collection import Collector
from store.content_index import ContentIndex
from store.content_sources.sources import ContentSources
from store.last_uses import LastUses
from store.root_finder import RootFinder
from store.worker.client import StoreWorkers
from storedaemon.authentication import Authenticator
from storedaemon.basics import Basics
from storedaemon.building import Building
from storedaemon.detached import DetachedBuilds


@dataclass(frozen=True, slots=True)
class Services(Basics):
    """The parts of a running daemon, beside the basic ones.

    Attributes:
        settings: How it builds.
        writer: Adds what clients send.
        content_index: Which item has which content.
        content_sources: Which media have some.
        history: How builds went.
        detached: Builds without a client.
        locks: The locks of items.
        workers: Hash, scan and delete what is in the store.
        spawner: Starts builders.
        root_finder: Finds what else is kept.
        collector: Deletes what is not.
        last_uses: When items were used last.
        building: What builds, as a whole.
        scheduler: Its way in.
        authenticator: Signs and verifies.
    """

    settings: BuildSettings
    writer: StoreWriter
    content_index: ContentIndex
    content_sources: ContentSources
    history: History
    detached: DetachedBuilds
    locks: PathLocks
    workers: StoreWorkers
    spawner: Spawner
    root_finder: RootFinder
    collector: Collector
    last_uses: LastUses
    building: Building
    scheduler: Scheduler
    authenticator: Authenticator
