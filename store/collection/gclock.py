# SPDX-License-Identifier: GPL-3.0-or-later
"""The locks of a collection, which the C++ daemon's collector and clients take as well.

Holding `gc.lock` exclusively keeps other collectors out, and processes from
making files of temporary roots. Holding each of these files shared keeps its
process from writing more into it; one that can be had exclusively is a dead
process's, and goes. Entry points: `collector_lock`, `others_roots`.
"""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import trio

from locker.filelock import mark_stale
from store import filelocks
from store.collection.events import Entered, Remark, Report, Stage
from store.filelocks import LockHolder, LockMode
from store.layout import Layout
from store.temproots import TempRoots

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 16


@asynccontextmanager
async def collector_lock(layout: Layout, locker: LockHolder, report: Report) -> AsyncIterator[None]:
    """Keep all others from collecting, and from making files of temporary roots."""
    fd = filelocks.open_lock_file(layout.gc_lock)
    try:
        if filelocks.try_lock(fd, LockMode.EXCLUSIVE):
            yield
        else:
            await report(Entered(Stage.WAITING))
            async with locker.hold([fd]):
                yield
    finally:
        os.close(fd)


@asynccontextmanager
async def others_roots(
    layout: Layout, own: TempRoots, locker: LockHolder, report: Report
) -> AsyncIterator[frozenset[str]]:
    """Give the temporary roots of all other processes, which get no more while this lasts.

    Raises:
        OSError: A file of roots cannot be read: then nobody knows what is needed.
    """
    roots: set[str] = set()
    async with AsyncExitStack() as stack:
        for name in await trio.to_thread.run_sync(_names, layout.temp_roots):
            fd = _open(f"{layout.temp_roots}/{name}")
            if fd is None:
                continue
            stack.callback(os.close, fd)
            status = os.fstat(fd)
            if own.is_file(status) or not stat.S_ISREG(status.st_mode):
                continue
            if filelocks.try_lock(fd, LockMode.EXCLUSIVE):
                await _remove_stale(f"{layout.temp_roots}/{name}", fd, report)
                continue
            await _share(fd, locker, stack)
            roots |= await trio.to_thread.run_sync(partial(_read, fd, f"{layout.store}/"))
        yield frozenset(roots)


def _names(directory: str) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


def _open(path: str) -> int | None:
    try:
        return os.open(path, _OPEN)
    except (FileNotFoundError, IsADirectoryError):
        # Its process ended meanwhile; or it is nothing that a process writes roots to.
        return None


async def _remove_stale(path: str, fd: int, report: Report) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    # Whoever has it open, and waits for our lock, sees by this that it has to make a new one.
    mark_stale(fd)
    filelocks.unlock(fd)
    await report(Remark(f"removing stale temporary roots file `{path}'", important=True))


async def _share(fd: int, locker: LockHolder, stack: AsyncExitStack) -> None:
    """Hold a file's lock shared; its process may be writing a root into it at this moment."""
    if not filelocks.try_lock(fd, LockMode.SHARED):
        await stack.enter_async_context(locker.hold([fd], shared=True))


def _read(fd: int, prefix: str) -> set[str]:
    """Read the roots in a file, each of which ends in NUL, as far as they are in the store."""
    roots: set[str] = set()
    rest, offset = b"", 0
    while piece := os.pread(fd, _PIECE, offset):
        offset += len(piece)
        *complete, rest = (rest + piece).split(b"\0")
        roots.update(root for root in map(os.fsdecode, complete) if root.startswith(prefix))
    return roots
