# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that operations work with, in one place, made once when the daemon starts."""

from collections.abc import Mapping
from dataclasses import dataclass

from builder.options import BuildSettings
from builder.retries.history import History
from builder.scheduling.scheduler import Scheduler
from builder.spawner.client import Spawner
from locker.client import Locker
from locker.pathlocks import PathLocks
from reaper.monitor import ProcessMonitor
from store.additions import StoreWriter
from store.collection import Collector
from store.content_index import ContentIndex
from store.content_sources.sources import ContentSources
from store.database import StoreDatabase
from store.last_uses import LastUses
from store.layout import Layout
from store.paths import StoreDirectory
from store.root_finder import RootFinder
from store.temproots import TempRoots
from store.worker.client import StoreWorkers
from storedaemon.authentication import Authenticator
from storedaemon.building import Building
from storedaemon.config import Config
from storedaemon.detached import DetachedBuilds
from storedaemon.homes import UserDirectories
from storedaemon.peers import Peers
from storedaemon.session import Session


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running daemon.

    Attributes:
        config: What its owner chose.
        layout: Where the store is.
        directory: The store's paths.
        settings: How it builds.
        database: What is registered.
        writer: Adds what clients send.
        content_index: Which item has which content.
        content_sources: Which media have some.
        history: How builds went.
        detached: Builds without a client.
        locks: The locks of items.
        locker: Waits for locks of files.
        workers: Hash, scan and delete what is in the store.
        spawner: Starts builders.
        temp_roots: What sessions keep alive.
        root_finder: Finds what else is kept.
        collector: Deletes what is not.
        last_uses: When items were used last.
        monitor: Reaps children.
        building: What builds, as a whole.
        scheduler: Its way in.
        homes: Makes users' profile directories.
        authenticator: Signs and verifies.
        peers: Knows who connects.
        sessions: Those that are connected, by number, the oldest first.
    """

    config: Config
    layout: Layout
    directory: StoreDirectory
    settings: BuildSettings
    database: StoreDatabase
    writer: StoreWriter
    content_index: ContentIndex
    content_sources: ContentSources
    history: History
    detached: DetachedBuilds
    locks: PathLocks
    locker: Locker
    workers: StoreWorkers
    spawner: Spawner
    temp_roots: TempRoots
    root_finder: RootFinder
    collector: Collector
    last_uses: LastUses
    monitor: ProcessMonitor
    building: Building
    scheduler: Scheduler
    homes: UserDirectories
    authenticator: Authenticator
    peers: Peers
    sessions: Mapping[int, Session]
