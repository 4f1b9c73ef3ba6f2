# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks on paths, by the conventions that all daemons of a store keep.

Whoever builds or adds PATH holds a lock on the whole of PATH.lock. Locks on several paths are
taken in the order of their names, so that nobody deadlocks. A holder may delete the lock file;
it unlinks it and then writes into it, so that whoever waited for it, and now has a lock on a
file without a name, can tell and start again (pathlocks.cc of the C++ daemon).

A free lock file is locked right here, which takes no longer than the system calls. The locker
waits for a taken one, and holds the locks where there are many.

Entry points: `PathLocks.hold`, `PathLocks.try_hold` and `PathLocks.acquire`.
"""

import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Self

from locker.client import MAX_STALE_RETRIES, Lease, Locker
from locker.errors import LockError
from locker.filelock import is_stale, mark_stale, try_lock

SUFFIX = ".lock"

_CREATE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

MAX_LOCAL = 16
"""Paths in one call that are locked in this process, which costs a descriptor each."""


def open_lock_file(path: str) -> int:
    """Open the lock file of a path, and create it if need be.

    Raises:
        LockError: It cannot be opened.
    """
    try:
        return os.open(path + SUFFIX, _CREATE, 0o600)
    except OSError as error:
        raise LockError(
            f"opening lock file `{path}{SUFFIX}': {error.strerror}", reason="lock-file"
        ) from error


class PathLease:
    """Locks on paths; an async context manager that releases them.

    Made by `PathLocks.acquire`.
    """

    __slots__ = ("_awaited", "_delete", "_leases", "_local", "_shared")

    def __init__(self, awaited: Counter[str], *, shared: bool) -> None:
        self._awaited = awaited
        self._shared = shared
        self._delete = False
        self._local: list[tuple[str, int]] = []
        self._leases: list[tuple[Sequence[str], Lease]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    def add_local(self, path: str, fd: int) -> None:
        """Add a lock of this process; for `PathLocks`."""
        self._local.append((path, fd))

    def add_lease(self, paths: Sequence[str], lease: Lease) -> None:
        """Add locks of the locker; for `PathLocks`."""
        self._leases.append((paths, lease))

    def delete_on_release(self) -> None:
        """Have the lock files deleted when the locks are released: the paths need none any more.

        Raises:
            ValueError: The locks are shared; others may hold them too, and would lose them.
        """
        if self._shared:
            raise ValueError("a lock file cannot be deleted under a shared lock")
        self._delete = True

    async def release(self, *, delete: bool = False) -> None:
        """Release all locks; a second call does nothing. Not interrupted by cancellation.

        Args:
            delete: Delete the lock files, as `delete_on_release` does.
        """
        if delete:
            self.delete_on_release()
        local, self._local = self._local, []
        leases, self._leases = self._leases, []
        for path, fd in local:
            try:
                if self._delete and self._unlink((path,)):
                    mark_stale(fd)
            finally:
                os.close(fd)
        for paths, lease in leases:
            # Without a lock of ours the file may be somebody else's by now.
            deleted = self._delete and not lease.lost and self._unlink(paths)
            await lease.release(deleted=deleted)

    def _unlink(self, paths: Sequence[str]) -> bool:
        """Unlink lock files that may go; say whether they were.

        A file that a task of ours waits for stays, and the task deletes it in its turn. Else
        all who wait would start again at each release.
        """
        if self._awaited and not self._awaited.keys().isdisjoint(paths):
            return False
        for path in paths:
            try:  # noqa: SIM105 - a context manager would take as long as the call
                os.unlink(path + SUFFIX)
            except OSError:
                # Removing the file is a courtesy; that it is gone already must not fail a build.
                pass
        return True


class PathLocks:
    """Takes locks on paths.

    Args:
        locker: Waits for locks that are taken, and holds large numbers of them.

    Attributes:
        locker: The same.
    """

    def __init__(self, locker: Locker) -> None:
        self.locker = locker
        self._awaited: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def hold(
        self,
        paths: Iterable[str],
        *,
        shared: bool = False,
        waiting: Callable[[str], None] | None = None,
    ) -> AsyncIterator[PathLease]:
        """Hold the locks of paths; the arguments and errors are those of `acquire`."""
        async with await self.acquire(paths, shared=shared, waiting=waiting) as lease:
            yield lease

    @contextlib.asynccontextmanager
    async def try_hold(
        self, paths: Iterable[str], *, shared: bool = False
    ) -> AsyncIterator[PathLease | None]:
        """Hold the locks of paths, or None if others have one of them."""
        lease = await self.try_acquire(paths, shared=shared)
        try:
            yield lease
        finally:
            if lease is not None:
                await lease.release()

    async def acquire(
        self,
        paths: Iterable[str],
        *,
        shared: bool = False,
        waiting: Callable[[str], None] | None = None,
    ) -> PathLease:
        """Lock paths, waiting for those that others have locked.

        Where none is locked by others this is no checkpoint.

        Args:
            paths: Each is locked once, however often it is named.
            shared: Let other shared locks be held at the same time.
            waiting: Called with a path before it is waited for.

        Raises:
            LockError: A lock file cannot be opened, or is none.
            ChannelClosedError: The locker is gone.
        """
        lease = PathLease(self._awaited, shared=shared)
        ordered = sorted(set(paths))
        try:
            if len(ordered) > MAX_LOCAL:
                await self._wait(ordered, lease, shared=shared)
                return lease
            for path in ordered:
                if not self._lock_here(path, lease, shared=shared):
                    if waiting is not None:
                        waiting(path)
                    await self._wait((path,), lease, shared=shared)
        except BaseException:
            await lease.release()
            raise
        return lease

    async def try_acquire(self, paths: Iterable[str], *, shared: bool = False) -> PathLease | None:
        """Lock paths, or give None, and lock none, if others have locked one of them."""
        lease = PathLease(self._awaited, shared=shared)
        ordered = sorted(set(paths))
        try:
            if len(ordered) > MAX_LOCAL:
                done = await self._try_many(ordered, lease, shared=shared)
            else:
                done = all(self._lock_here(path, lease, shared=shared) for path in ordered)
        except BaseException:
            await lease.release()
            raise
        if not done:
            await lease.release()
            return None
        return lease

    def _lock_here(self, path: str, lease: PathLease, *, shared: bool) -> bool:
        """Lock a path in this process, unless others have it or a task waits for it."""
        if path in self._awaited:
            return False
        for _ in range(MAX_STALE_RETRIES):
            fd = open_lock_file(path)
            held = False
            try:
                if not try_lock(fd, shared=shared):
                    return False
                held = not is_stale(fd)
            except OSError as error:
                raise LockError(f"cannot lock `{path}{SUFFIX}': {error.strerror}") from error
            finally:
                if not held:
                    os.close(fd)
            if held:
                lease.add_local(path, fd)
                return True
        raise LockError(f"lock file `{path}{SUFFIX}' is not empty", reason="lock-file-in-use")

    async def _wait(self, paths: Sequence[str], lease: PathLease, *, shared: bool) -> None:
        self._awaited.update(paths)
        try:
            locks = await self.locker.acquire(paths, open_lock_file, shared=shared, lock_files=True)
        finally:
            self._awaited.subtract(paths)
            for path in paths:
                if not self._awaited[path]:
                    del self._awaited[path]
        assert locks is not None
        lease.add_lease(paths, locks)

    async def _try_many(self, paths: Sequence[str], lease: PathLease, *, shared: bool) -> bool:
        locks = await self.locker.acquire(
            paths, open_lock_file, shared=shared, wait=False, lock_files=True
        )
        if locks is None:
            return False
        lease.add_lease(paths, locks)
        return True
