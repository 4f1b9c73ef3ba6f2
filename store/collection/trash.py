# SPDX-License-Identifier: GPL-3.0-or-later
"""Getting things out of the store at once, whatever their size; for threads.

A directory is moved into `trash`, which has the name it has with the C++
daemon, and is deleted from there later, when nobody waits any more; anything
else is deleted at once. Names are direct entries of the store, and nothing is
followed. Entry point: `Trash`.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Self

from locker.filelock import mark_stale
from store import filelocks
from store.filelocks import LockMode
from store.files import open_directory
from store.syscalls import rename_to_free_name

NAME = "trash"
LOCK_SUFFIX = ".lock"

_LOCK_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ITEM = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 100
# As in a container whose store is made of layers; or on a disk without room for a name.
_IMMOVABLE = (errno.EXDEV, errno.ENOSPC)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the store has under a name.

    Attributes:
        name: The name.
        is_directory: Whether it is a directory.
        is_file: Whether it is a regular file.
        size: For others, the bytes that deleting it frees in the end.
        links: For others, how many names it has.
        in_use: Whether somebody has locked it, such as another daemon that builds with it.
    """

    name: str
    is_directory: bool
    is_file: bool
    size: int
    links: int
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Thrown:
    """What became of entries that were to go.

    Attributes:
        removed: Those that are out of the way, as asked.
        freed: Bytes that are free already.
        immovable: Directories that could not be moved and are still there, and why.
        failed: Other things that are still there, and why.
    """

    removed: frozenset[str]
    freed: int
    immovable: dict[str, str]
    failed: dict[str, str]


class Trash:
    """The store's trash.

    Args:
        store_fd: The store's directory; not taken over.
    """

    def __init__(self, store_fd: int) -> None:
        self._store = store_fd

    def examine(self, names: Iterable[str]) -> dict[str, Entry]:
        """Look at entries of the store; those that do not exist are left out."""
        entries = {}
        for name in names:
            try:
                status = os.lstat(name, dir_fd=self._store)
            except FileNotFoundError:
                continue
            is_directory, is_file = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
            size = 0 if is_directory else status.st_size
            in_use = (is_directory or is_file) and self._is_in_use(name)
            entries[name] = Entry(name, is_directory, is_file, size, status.st_nlink, in_use)
        return entries

    def _is_in_use(self, name: str) -> bool:
        try:
            fd = os.open(name, _ITEM, dir_fd=self._store)
        except OSError:
            # What cannot be opened by us, no daemon of this store can have locked.
            return False
        try:
            return filelocks.is_locked(fd)
        finally:
            os.close(fd)

    def throw(self, entries: Iterable[Entry]) -> Thrown:
        """Move or delete entries of the store; what is gone already is as good as removed."""
        removed: set[str] = set()
        immovable: dict[str, str] = {}
        failed: dict[str, str] = {}
        freed = 0
        with _Opened(self.open) as trash:
            for entry in entries:
                try:
                    if entry.is_directory:
                        self._move(entry.name, trash)
                    else:
                        freed += self._unlink(entry)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    reasons = immovable if _is_immovable(entry, error) else failed
                    reasons[entry.name] = error.strerror or str(error)
                else:
                    removed.add(entry.name)
        return Thrown(frozenset(removed), freed, immovable, failed)

    def contents(self, size: int) -> Iterator[list[str]]:
        """Yield the names of what lies in the trash, that many at a time."""
        try:
            trash = open_directory(self._store, NAME)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            with os.scandir(trash) as entries:
                while names := [entry.name for entry in islice(entries, size)]:
                    yield names
        finally:
            os.close(trash)

    def open(self) -> int:
        """Open the trash, made where it is absent, with no access for anybody else."""
        for _ in range(_ATTEMPTS):
            try:
                os.mkdir(NAME, 0o700, dir_fd=self._store)
            except FileExistsError:
                self._remove_impostor()
            try:
                return open_directory(self._store, NAME)
            except (FileNotFoundError, NotADirectoryError):
                # Another collector has just emptied and removed it.
                continue
        raise OSError(errno.EBUSY, "somebody keeps removing it", NAME)

    def _remove_impostor(self) -> None:
        """Delete what has the trash's name, and is no directory."""
        try:
            if not stat.S_ISDIR(os.lstat(NAME, dir_fd=self._store).st_mode):
                os.unlink(NAME, dir_fd=self._store)
        except FileNotFoundError:
            return

    def _move(self, name: str, trash: "_Opened") -> None:
        for _ in range(_ATTEMPTS):
            target = os.urandom(12).hex()
            try:
                rename_to_free_name(self._store, name, trash.fd, target)
            except FileExistsError:
                continue
            except PermissionError:
                self._make_writable(name)
                rename_to_free_name(self._store, name, trash.fd, target)
            except FileNotFoundError:
                if not trash.is_gone():
                    raise
                trash.close()
                continue
            return
        raise OSError(errno.EBUSY, "no free name in the trash", name)

    def _make_writable(self, name: str) -> None:
        # Moving a directory rewrites its "..". A descriptor without rights takes no fchmod.
        fd = os.open(name, _DIRECTORY, dir_fd=self._store)
        try:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
        finally:
            os.close(fd)

    def _unlink(self, entry: Entry) -> int:
        if entry.is_file and entry.name.endswith(LOCK_SUFFIX):
            self._unlink_lock_file(entry.name)
        else:
            os.unlink(entry.name, dir_fd=self._store)
        return entry.size if entry.links == 1 else 0

    def _unlink_lock_file(self, name: str) -> None:
        """Delete a lock file, but for one that is locked; tell who waits for it."""
        fd = os.open(name, _LOCK_FILE, dir_fd=self._store)
        try:
            if not filelocks.try_lock(fd, LockMode.EXCLUSIVE):
                raise OSError(errno.EBUSY, "it is locked", name)
            os.unlink(name, dir_fd=self._store)
            mark_stale(fd)
        finally:
            os.close(fd)

    def is_locked(self, name: str) -> bool:
        """Tell whether somebody holds the lock of an entry."""
        try:
            fd = os.open(f"{name}{LOCK_SUFFIX}", _LOCK_FILE, dir_fd=self._store)
        except OSError:
            return False
        try:
            return not filelocks.try_lock(fd, LockMode.EXCLUSIVE)
        finally:
            os.close(fd)


class _Opened:
    """The trash, opened when it is first needed, and anew after another collector removed it."""

    def __init__(self, opener: Callable[[], int]) -> None:
        self._opener = opener
        self._fd = -1

    @property
    def fd(self) -> int:
        if self._fd < 0:
            self._fd = self._opener()
        return self._fd

    def is_gone(self) -> bool:
        return not os.fstat(self.fd).st_nlink

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_immovable(entry: Entry, error: OSError) -> bool:
    return entry.is_directory and error.errno in _IMMOVABLE
