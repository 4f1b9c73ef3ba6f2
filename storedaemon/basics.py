# SPDX-License-Identifier: GPL-3.0-or-later
"""What is there from the first client on; all else comes while clients are served already.

A daemon whose parts were all imported and made before it answers would keep the first
clients waiting more than twice as long. So whatever this module imports is on their way
to the first reply. Entry points: `open_basics`, `Later`.
"""

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from locker.client import Locker
from reaper.monitor import ProcessMonitor
from store.database import StoreDatabase
from store.layout import Layout
from store.paths import StoreDirectory
from store.temproots import TempRoots
from storedaemon.config import Config
from storedaemon.homes import UserDirectories
from storedaemon.peers import Peers
from storedaemon.request_memory import RequestMemory
from storedaemon.session import Session
from storedaemon.settings import weights

T = TypeVar("T")

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Basics:
    """The parts that sessions need, and those that answer questions.

    Attributes:
        config: What its owner chose.
        layout: Where the store is.
        directory: The store's paths.
        database: What is registered.
        locker: Waits for locks of files.
        temp_roots: What sessions keep alive.
        monitor: Reaps children.
        homes: Makes users' profile directories.
        peers: Knows who connects.
        sessions: Those that are connected, by number, the oldest first.
        request_memory: Room for their long requests.
    """

    config: Config
    layout: Layout
    directory: StoreDirectory
    database: StoreDatabase
    locker: Locker
    temp_roots: TempRoots
    monitor: ProcessMonitor
    homes: UserDirectories
    peers: Peers
    sessions: Mapping[int, Session]
    request_memory: RequestMemory


class Later(Generic[T]):
    """Something that is not there yet: tasks wait for it, and one gives it."""

    def __init__(self) -> None:
        self._given = trio.Event()
        self._value: T

    def give(self, value: T) -> None:
        """Let all have it."""
        self._value = value
        self._given.set()

    async def get(self) -> T:
        """Wait until it is there."""
        await self._given.wait()
        return self._value


async def open_basics(
    config: Config,
    locker: Locker,
    monitor: ProcessMonitor,
    sessions: Mapping[int, Session],
    stack: AsyncExitStack,
) -> Basics:
    """Open the store.

    Args:
        config: What the daemon's owner chose.
        locker: Waits for locks.
        monitor: Reaps children.
        sessions: Those that are connected.
        stack: Closes what is opened.

    Raises:
        StoreError: The store cannot be used.
    """
    layout = config.layout
    return Basics(
        config=config,
        layout=layout,
        directory=StoreDirectory(layout.store),
        database=await stack.enter_async_context(StoreDatabase.open(layout)),
        locker=locker,
        temp_roots=await stack.enter_async_context(TempRoots.open(layout, locker)),
        monitor=monitor,
        homes=UserDirectories(
            layout.profiles, enforce=os.geteuid() == 0 and bool(config.build_users_group)
        ),
        peers=Peers(config.trusted_users, os.geteuid(), weights(config)),
        sessions=sessions,
        request_memory=RequestMemory(config.max_request_memory * _MIB),
    )
