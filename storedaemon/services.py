# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that operations work with, in one place, made once when the daemon starts."""

from collections.abc import Mapping
from dataclasses import dataclass

from builder.options import BuildSettings
from builder.scheduler import Scheduler
from reaper.monitor import ProcessMonitor
from store.database import StoreDatabase
from store.layout import Layout
from store.paths import StoreDirectory
from store.temproots import TempRoots
from storedaemon.config import Config
from storedaemon.homes import UserDirectories
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
        temp_roots: What sessions keep alive.
        monitor: Reaps children.
        scheduler: Builds.
        homes: Makes users' profile directories.
        sessions: Those that are connected, by number, the oldest first.
    """

    config: Config
    layout: Layout
    directory: StoreDirectory
    settings: BuildSettings
    database: StoreDatabase
    temp_roots: TempRoots
    monitor: ProcessMonitor
    scheduler: Scheduler
    homes: UserDirectories
    sessions: Mapping[int, Session]
