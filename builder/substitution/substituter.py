# SPDX-License-Identifier: GPL-3.0-or-later
"""Substituting items: a slot, the item's lock, the download, its check, the registration.

Downloads have slots of their own, so that they neither hold up builds nor wait
for them. ``guix substitute`` writes an item to a private directory; there it is
sealed like a builder's output, and only if it has the announced hash it is put
into the store, and registered with the references and the deriver that were
offered. Entry points: `Substituter.ask`, `Substituter.substitute`.
"""

import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from builder.admission.slots import Slots
from builder.directories import private_directory
from builder.errors import BuildError
from builder.events import (
    FailureKind,
    HashMismatch,
    SubstituteStarted,
    SubstituteSucceeded,
)
from builder.options import BuildMode
from builder.outputs.cleaning import Cleaner
from builder.outputs.sealing import Sealer
from builder.scheduling.jobs import Download, JobState
from builder.scheduling.locked import LockWatch
from builder.scheduling.waiting import running_builds
from builder.substitution.downloads import Downloader
from builder.substitution.offers import Offer, Sources
from builder.substitution.protocol import Fetched, Mismatch
from builder.substitution.queries import Listen, Queries
from locker.pathlocks import PathLocks
from store.database import NewItem, StoreDatabase
from store.derivation_checks import DerivationChecker, read_text
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.paths import StorePath, is_derivation


@dataclass(frozen=True, slots=True)
class Parts:
    """What substituting needs.

    Attributes:
        database: What is valid.
        locks: The locks of items.
        cleaner: Deletes what is left behind.
        sealer: Checks what was downloaded, and puts it into the store.
        checker: Checks derivations that were downloaded.
        queries: Knows what there is.
        downloader: Downloads.
        is_present: Tells whether there is a program at all.
    """

    database: StoreDatabase
    locks: PathLocks
    cleaner: Cleaner
    sealer: Sealer
    checker: DerivationChecker
    queries: Queries
    downloader: Downloader
    is_present: Callable[[], bool]


class Substituter:
    """Knows of substitutes, and downloads them.

    Args:
        parts: What it needs.
        width: How many downloads there are at once.
    """

    def __init__(self, parts: Parts, width: int) -> None:
        self._parts = parts
        self.slots = Slots(width)
        self._holders = LockWatch()

    def is_present(self) -> bool:
        """Tell whether there is a program to ask."""
        return self._parts.is_present()

    async def ask(
        self, paths: Collection[StorePath], sources: Sources, listen: Listen
    ) -> Mapping[StorePath, Offer]:
        """Return what is offered of some items; see `Queries.ask`."""
        return await self._parts.queries.ask(paths, sources, listen)

    async def substitute(self, job: Download) -> None:
        """Make an item valid whose references are; in a repair, whatever it is now.

        Raises:
            BuildError: It cannot be had.
        """
        while not await self._take_turn(job):
            unknown = "another process makes the same item"
            acquire = partial(self._parts.locks.acquire, (job.path,))
            async with await self._holders.awaited(job, (job.path,), unknown, acquire):
                job.proceed(JobState.WAITING_FOR_SLOT)

    async def _take_turn(self, job: Download) -> bool:
        """As with builds, no slot is held while a lock is waited for, nor the reverse."""
        slot = self.slots.acquire_nowait(job.claim)
        if slot is None:
            job.wait(
                JobState.WAITING_FOR_SLOT,
                "download slot",
                *running_builds(self.slots.holders, "downloads"),
            )
            slot = await self.slots.acquire(job.claim)
        try:
            async with self._parts.locks.try_hold((job.path,)) as held:
                if held is None:
                    return False
                held.delete_on_release()
                if job.key.mode is BuildMode.REPAIR or not self._is_valid(job.path):
                    await self._make(job)
                return True
        finally:
            self.slots.release(slot)

    def _is_valid(self, path: StorePath) -> bool:
        return self._parts.database.is_valid(path)

    async def _make(self, job: Download) -> None:
        job.proceed(JobState.PREPARING)
        missing = [p for p in job.offer.references if p != job.path and not self._is_valid(p)]
        if missing:
            raise BuildError(f"`{missing[0]}', which `{job.path}' refers to, is not valid")
        started = trio.current_time()
        async with self._private_directory(job) as directory:
            digest = await self._download(job, directory)
            info = await self._seal(job, directory, digest)
            item = await self._item(info, directory)
            job.proceed(JobState.REGISTERING)
            with trio.CancelScope(shield=True):
                await self._place(job, directory)
                await self._parts.database.register([item])
        seconds = trio.current_time() - started
        job.audience.tell(SubstituteSucceeded(job.path, info.nar_size, seconds))

    @asynccontextmanager
    async def _private_directory(self, job: Download) -> AsyncIterator[str]:
        """Make a directory that collectors spare while the item is a temporary root."""
        directory = private_directory(job.path)
        await self._parts.cleaner.vacate(directory)
        os.mkdir(directory, 0o700)
        try:
            yield directory
        finally:
            self._parts.cleaner.discard((directory,))

    async def _download(self, job: Download, directory: str) -> Digest:
        job.proceed(JobState.DOWNLOADING)
        job.started = SubstituteStarted(job.path)
        job.audience.tell(job.started)
        try:
            outcome = await self._parts.downloader.download(job, directory)
        except StoreError as error:
            self._parts.queries.forget(job.path)
            raise _failed(error.message) from error
        if isinstance(outcome, Fetched):
            return outcome.digest
        self._parts.queries.forget(job.path)
        if isinstance(outcome, Mismatch):
            known = outcome.algorithm, outcome.expected, outcome.actual
            job.audience.tell(HashMismatch(job.path, *known))
            raise _failed(f"hash mismatch for substituted item `{job.path}'")
        raise _failed(f"fetching path `{job.path}' (status: '{job.status}')")

    async def _seal(self, job: Download, directory: str, announced: Digest) -> PathInfo:
        try:
            sealed = await self._parts.sealer.seal_download(job.path, directory, announced)
        except StoreError as error:
            actual = getattr(error, "actual", None)
            if actual is None:
                raise _failed(error.message) from error
            algorithm = str(announced.algorithm)
            job.audience.tell(HashMismatch(job.path, algorithm, announced.base32, actual.base32))
            raise _failed(f"hash mismatch for substituted item `{job.path}'") from error
        return PathInfo(
            path=job.path,
            nar_hash=Digest(HashAlgorithm.SHA256, sealed.nar_hash),
            nar_size=sealed.nar_size,
            references=job.offer.references,
            deriver=job.offer.deriver,
        )

    async def _item(self, info: PathInfo, directory: str) -> NewItem:
        """Return what is registered; a derivation's outputs are as well, if they are its own."""
        if not is_derivation(info.path):
            return NewItem(info)
        file = f"{directory}/{info.path.rpartition('/')[2]}"

        def check() -> Mapping[str, StorePath]:
            return self._parts.checker.check(info.path, read_text(None, file)).outputs_by_name

        try:
            return NewItem(info, await trio.to_thread.run_sync(check))
        except (StoreError, OSError) as error:
            raise _failed(f"`{info.path}' is no sound derivation: {error}") from error

    async def _place(self, job: Download, directory: str) -> None:
        if job.key.mode is BuildMode.REPAIR:
            # What is damaged has to go first, however large it is.
            await trio.to_thread.run_sync(self._parts.sealer.place_download, job.path, directory)
        else:
            self._parts.sealer.place_download(job.path, directory)


def _failed(message: str) -> BuildError:
    return BuildError(message, FailureKind.TRANSIENT)
