# SPDX-License-Identifier: GPL-3.0-or-later
"""Where items are made before they have their names: a private directory in the store.

It lies in the store, so that a rename puts an item into place, and its mode is
0700, so that nobody sees unfinished items. It is a temporary root of this
process, and so no collector touches it, the C++ daemon's included; when the
process is dead, it is garbage to either collector. `open` also deletes those
of dead processes: a live one holds its directory's lock.
"""

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import trio

from store.files import delete_tree, open_directory
from store.layout import Layout
from store.paths import StorePath
from store.temproots import SessionRoots, TempRoots

_PREFIX = ".incoming-"
_ATTEMPTS = 100


class Incoming:
    """The private directory of this process; make one with `open`.

    Attributes:
        store_fd: The store's directory.
        fd: The private directory.
    """

    def __init__(self, store_fd: int, fd: int) -> None:
        self.store_fd = store_fd
        self.fd = fd
        self._numbers: Iterator[int] = itertools.count()

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: Layout, temp_roots: TempRoots) -> AsyncIterator["Incoming"]:
        """Make the directory, for as long as the context lasts."""
        store_fd = os.open(layout.store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with temp_roots.session() as roots:
                name, fd = await _make(layout, store_fd, roots)
                try:
                    await trio.to_thread.run_sync(_sweep, store_fd)
                    yield cls(store_fd, fd)
                finally:
                    os.close(fd)
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(delete_tree, store_fd, name)
        finally:
            os.close(store_fd)

    def new_name(self) -> str:
        """Return a name that nothing in the directory has."""
        return str(next(self._numbers))

    async def discard(self, name: str) -> None:
        """Delete what has a name there, if anything has; not cancelled."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(delete_tree, self.fd, name)


async def _make(layout: Layout, store_fd: int, roots: SessionRoots) -> tuple[str, int]:
    for _ in range(_ATTEMPTS):
        name = f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        await roots.add(StorePath(f"{layout.store}/{name}"))
        os.mkdir(name, 0o700, dir_fd=store_fd)
        with suppress(FileNotFoundError):
            # Another daemon that is starting may sweep it before it is locked.
            fd = open_directory(store_fd, name)
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.fstat(fd).st_nlink:
                return name, fd
            os.close(fd)
    raise FileExistsError(errno.EEXIST, "cannot keep a private directory", layout.store)


def _sweep(store_fd: int) -> None:
    """Delete the private directories of dead processes."""
    with os.scandir(store_fd) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            _delete_if_dead(store_fd, name)


def _delete_if_dead(store_fd: int, name: str) -> None:
    fd = open_directory(store_fd, name)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != 0o700:
            return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        delete_tree(store_fd, name)
    except BlockingIOError:
        # It is in use.
        return
    finally:
        os.close(fd)
