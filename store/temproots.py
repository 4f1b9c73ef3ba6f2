# SPDX-License-Identifier: GPL-3.0-or-later
"""Temporary roots: items that a session works with, which no collector may delete.

A process has one file, ``temproots/PID``, of paths that each end in NUL. Its
lock is the protocol, which the C++ daemon's collector takes part in:

* We hold it shared for as long as we live. A collector that gets it
  exclusively knows that we died, and removes the file.
* We hold it exclusively while we write. A collector holds it shared from
  reading the file until it has deleted its garbage, so a root cannot come into
  being meanwhile and be overlooked.
* The file comes into being under the shared `gc.lock`, which a collector holds
  exclusively from before it lists the directory.

Our sessions share the file. What no session needs any more stays in it, and so is
kept from the collectors of other daemons, until that makes up half of the file; then
it is rewritten, or, if a collector is at work, as soon as it is done.
"""

import errno
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Protocol, Self

import trio

from store import filelocks, turns
from store.filelocks import LockHolder, LockMode
from store.layout import Layout
from store.paths import StorePath

_FIRST_DELAY = 0.001
_LONGEST_DELAY = 0.1
_LONGEST_PAUSE = 5.0


Observer = Callable[[Iterable[StorePath]], None]


class Guard(Protocol):
    """Our own collector, which leaves what it is told of in time."""

    async def spare(self, paths: Iterable[str]) -> None:
        """Return when each item is safe, or gone already."""


class TempRoots:
    """The temporary roots of this process; make one with `open`.

    Args:
        fd: The file, locked shared.
        layout: Of the store.
        locker: How to wait for a collector.
    """

    def __init__(self, fd: int, layout: Layout, locker: LockHolder) -> None:
        self._fd = fd
        self._layout = layout
        self._locker = locker
        self._users: dict[StorePath, int] = {}
        self._stale = 0
        self._size = 0
        self._guard: Guard | None = None
        self._observers: list[Observer] = []
        self._leaving: list[StorePath] = []
        self._tidying = trio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: Layout, locker: LockHolder) -> AsyncIterator["TempRoots"]:
        """Make this process's file, for as long as the context lasts."""
        os.makedirs(layout.temp_roots, exist_ok=True)
        name = f"{layout.temp_roots}/{os.getpid()}"
        fd = await _create(name, layout, locker)
        try:
            yield cls(fd, layout, locker)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
            os.close(fd)

    def session(self) -> "SessionRoots":
        """Return an empty set of roots for one session."""
        return SessionRoots(self)

    def live(self) -> frozenset[StorePath]:
        """Return what some session needs."""
        return frozenset(path for path, users in self._users.items() if users)

    def is_file(self, status: os.stat_result) -> bool:
        """Tell whether a status is that of this process's file."""
        return os.path.samestat(status, os.fstat(self._fd))

    def observe(self, observer: Observer) -> None:
        """Have somebody told, from now on, of items that come to be needed."""
        self._observers.append(observer)

    @contextmanager
    def guarded(self, guard: Guard) -> Iterator[None]:
        """Have our own collector told of each root while it deletes, instead of waiting for it."""
        self._guard = guard
        try:
            yield
        finally:
            self._guard = None

    async def sync_with_collector(self) -> None:
        """Wait until no collection is going on (what clients call SyncWithGC)."""
        async with _collector_lock(self._layout, self._locker):
            pass

    async def hold(self, paths: AbstractSet[StorePath]) -> None:
        """Count one more user of each path, once they are safe from collectors."""
        if not self._hold_now(paths):
            await self._hold_after_collection(paths)
        for observer in self._observers:
            observer(paths)
        if self._guard is not None:
            try:
                await self._guard.spare(paths)
            except BaseException:
                self.release(paths)
                raise

    async def _hold_after_collection(self, paths: AbstractSet[StorePath]) -> None:
        delay = _FIRST_DELAY
        while True:
            async with _collector_lock(self._layout, self._locker):
                # A collector drops the big lock some microseconds before it drops our file's.
                if self._hold_now(paths):
                    return
            await trio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    def release(self, paths: Collection[StorePath]) -> None:
        """Count one user less of each path; of very many, `run` does it soon."""
        if len(paths) > turns.PORTION:
            self._leaving += paths
            self._tidying.set()
            return
        self._release(paths)
        if self._is_untidy() and not self._rewrite():
            self._tidying.set()

    def _release(self, paths: Iterable[StorePath]) -> None:
        for path in paths:
            self._users[path] -= 1
            if not self._users[path]:
                self._stale += 1

    async def run(self) -> None:
        """Do later what takes long, or cannot be done while a collector is at work, for ever."""
        while True:
            await self._tidying.wait()
            self._tidying = trio.Event()
            leaving, self._leaving = self._leaving, []
            for portion in turns.portions(leaving):
                self._release(portion)
                await trio.lowlevel.checkpoint()
            delay = _LONGEST_DELAY
            while self._is_untidy() and not self._rewrite():
                await trio.sleep(delay)
                delay = min(2 * delay, _LONGEST_PAUSE)

    def _is_untidy(self) -> bool:
        return self._stale > 0 and 2 * self._stale >= len(self._users)

    def _hold_now(self, paths: AbstractSet[StorePath]) -> bool:
        """Do what `hold` does, unless a collector is at work; return whether."""
        # What is in the file is safe already: a collector that runs now has read it.
        users = self._users
        missing = [path for path in paths if path not in users]
        if missing:
            if not filelocks.try_lock(self._fd, LockMode.EXCLUSIVE):
                return False
            try:
                self._write(missing, self._size)
            finally:
                filelocks.try_lock(self._fd, LockMode.SHARED)
        for path in paths:
            count = users.get(path)
            if count == 0:
                self._stale -= 1
            users[path] = (count or 0) + 1
        return True

    def _rewrite(self) -> bool:
        """Write only what is needed, unless a collector is at work; tell whether it was done."""
        if not filelocks.try_lock(self._fd, LockMode.EXCLUSIVE):
            return False
        try:
            self._users = {path: users for path, users in self._users.items() if users}
            self._stale = 0
            self._write(self._users, 0)
            os.ftruncate(self._fd, self._size)
        finally:
            filelocks.try_lock(self._fd, LockMode.SHARED)
        return True

    def _write(self, paths: Iterable[StorePath], offset: int) -> None:
        data = "\0".join([*paths, ""]).encode()
        written = os.pwrite(self._fd, data, offset)
        if written != len(data):
            raise OSError(errno.ENOSPC, "no space for temporary roots")
        self._size = offset + written


class SessionRoots:
    """The temporary roots of one session, given up when it ends."""

    __slots__ = ("_paths", "_roots")

    def __init__(self, roots: TempRoots) -> None:
        self._roots = roots
        self._paths: set[StorePath] = set()

    async def add(self, *paths: StorePath) -> None:
        """Keep items from collectors until this session ends.

        They need not be valid. Waits while a collection is going on, which may
        be about to delete them.
        """
        if len(paths) > turns.PORTION:
            for portion in turns.portions(paths):
                await self.add(*portion)
                await trio.lowlevel.checkpoint()
            return
        new = set(paths) - self._paths
        if new:
            await self._roots.hold(new)
            # Another task of this session may have added some of them meanwhile.
            if again := new & self._paths:
                self._roots.release(again)
            self._paths |= new

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def close(self) -> None:
        """Give all of them up."""
        paths, self._paths = self._paths, set()
        self._roots.release(paths)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@asynccontextmanager
async def _collector_lock(layout: Layout, locker: LockHolder) -> AsyncIterator[None]:
    """Hold the lock that keeps collectors from starting."""
    fd = filelocks.open_lock_file(layout.gc_lock)
    try:
        # A lock that is free is taken at once, which spares a trip to the locker.
        if filelocks.try_lock(fd, LockMode.SHARED):
            yield
        else:
            async with locker.hold([fd], shared=True):
                yield
    finally:
        os.close(fd)


async def _create(name: str, layout: Layout, locker: LockHolder) -> int:
    """Make the file and lock it shared, as the C++ daemon does."""
    while True:
        async with _collector_lock(layout, locker):
            with suppress(FileNotFoundError):
                # Left by a dead process that had our number.
                os.unlink(name)
            fd = filelocks.open_lock_file(name)
        # A collector that came in between has removed the file and written to it.
        if filelocks.try_lock(fd, LockMode.SHARED) and not os.fstat(fd).st_size:
            return fd
        os.close(fd)
        await trio.lowlevel.checkpoint()
