# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has the locks that a job waits for, and telling those who wait for the job.

A job of this daemon is known by what it locks; what another process holds is asked of
the kernel, in a thread, and again now and then, since locks pass from one to the next.
Entry point: `LockWatch`.
"""

import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from functools import partial

import trio

from builder.brackets import Bracket
from builder.scheduling.jobs import AnyJob, JobState
from builder.scheduling.waiting import Holder, named
from locker.holders import LockHolder, find_holder
from locker.pathlocks import SUFFIX, PathLease
from store.paths import StorePath

AGAIN_SECONDS = 10.0


class LockWatch:
    """Knows which jobs hold locks, and finds out who else does."""

    def __init__(self) -> None:
        self._jobs: dict[StorePath, AnyJob] = {}

    def holding(self, job: AnyJob, paths: Collection[StorePath]) -> AbstractContextManager[None]:
        """Note that a job has the locks of paths, until the context is left."""
        self._jobs.update(dict.fromkeys(paths, job))
        return Bracket(None, partial(self._let_go, job, paths))

    def _let_go(self, job: AnyJob, paths: Collection[StorePath]) -> None:
        for path in paths:
            if self._jobs.get(path) is job:
                del self._jobs[path]

    async def awaited(
        self,
        job: AnyJob,
        paths: Sequence[StorePath],
        unknown: str,
        acquire: Callable[[], Awaitable[PathLease]],
    ) -> PathLease:
        """Wait for locks, and tell meanwhile who has them.

        Args:
            job: What waits.
            paths: Whose locks it waits for.
            unknown: What is said while nobody is found.
            acquire: Waits for the locks.
        """
        lease: PathLease | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._explain, job, paths, unknown)
                lease = await acquire()
                nursery.cancel_scope.cancel()
        except BaseException as error:
            if lease is not None:
                await lease.release()
            # A nursery wraps what ends it, and only one thing did.
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise
        assert lease is not None
        return lease

    async def _explain(self, job: AnyJob, paths: Sequence[StorePath], unknown: str) -> None:
        while True:
            holder = await self._holder(paths)
            reason = f"held by {named([holder])}" if holder else unknown
            job.wait(JobState.WAITING_FOR_LOCK, "lock", reason, (holder,) if holder else ())
            await trio.sleep(AGAIN_SECONDS)

    async def _holder(self, paths: Sequence[StorePath]) -> Holder | None:
        for path in paths:
            if path in self._jobs:
                other = self._jobs[path]
                return Holder(other.path, other.claim.user, since=other.begun)
        found = await trio.to_thread.run_sync(_find, paths, abandon_on_cancel=True)
        if found is None:
            return None
        command = "this daemon" if found.pid == os.getpid() else found.command
        return Holder(pid=found.pid, command=command, since=found.since)


def _find(paths: Sequence[StorePath]) -> LockHolder | None:
    return next(filter(None, (find_holder(path + SUFFIX) for path in paths)), None)
