# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's pool of store workers.

A request goes to the first worker that is free, in the order of asking. What is
asked for in the background, for nobody who is in a hurry, comes after all else,
and one worker is always left for the others, unless there is only one. Whoever
gives up waiting leaves the worker to finish, and its answer is dropped. Entry
points: `StoreWorkers.run` as a task, then its other coroutines; `seal_here` for
what is too little to be asked for.
"""

import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from locker.aio import AsyncChannel
from locker.errors import ChannelClosedError
from locker.start import StartedHelper
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.worker.messages import (
    CODEC,
    DeleteEntries,
    DeleteEntriesReply,
    DeleteTree,
    Failure,
    HashPath,
    IndexLinks,
    SealedOutput,
    SealOutputs,
    SealOutputsReply,
    ShareFiles,
    ShareFilesReply,
    SweepLinks,
    SweepLinksReply,
)
from store.worker.sealing import seal_small


class WorkerError(StoreError):
    """A worker could not fulfil a request.

    Attributes:
        output: The name of the output that is to blame; empty for none.
        actual: Where the reason is ``hash-mismatch``, the hash found.
    """

    default_reason = "worker"

    def __init__(self, failure: Failure, actual: Digest | None = None) -> None:
        super().__init__(failure.message, reason=failure.reason)
        self.output = failure.output
        self.actual = actual


class _Request:
    """A request that a worker has; no reply after it is done means that the worker is gone."""

    __slots__ = ("done", "reply")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.reply: Any = None


class _Worker:
    __slots__ = ("background", "channel", "request")

    def __init__(self, channel: AsyncChannel) -> None:
        self.channel = channel
        self.request: _Request | None = None
        self.background = False


class _Waiter:
    """A task in line for a worker; none after it is woken means that all are gone."""

    __slots__ = ("woken", "worker")

    def __init__(self) -> None:
        self.woken = trio.Event()
        self.worker: _Worker | None = None


@dataclass(frozen=True, slots=True)
class WorkersStatistics:
    """A look at the workers: how many there are, are busy, and are waited for."""

    count: int
    busy: int
    waiting: int


class StoreWorkers:
    """Has work done by store workers.

    Args:
        channels: One to each worker, with `CODEC`; owned from here on.
    """

    def __init__(self, channels: Iterable[AsyncChannel]) -> None:
        self._workers = [_Worker(channel) for channel in channels]
        self._idle = deque(self._workers)
        self._waiters: deque[_Waiter] = deque()
        self._background_waiters: deque[_Waiter] = deque()

    @property
    def background_width(self) -> int:
        """How many workers do background work at once, at most."""
        return max(1, len(self._workers) - 1)

    @classmethod
    def from_helpers(cls, helpers: Iterable[StartedHelper]) -> "StoreWorkers":
        """Make the pool of processes that were started as ``store.worker``."""
        return cls(AsyncChannel(helper.socket, CODEC) for helper in helpers)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive answers until cancelled, or until the last worker is gone."""
        async with trio.open_nursery() as nursery:
            for worker in self._workers:
                nursery.start_soon(self._receive, worker)
            task_status.started()

    def statistics(self) -> WorkersStatistics:
        """Give counts for status displays."""
        busy = len(self._workers) - len(self._idle)
        return WorkersStatistics(
            len(self._workers), busy, len(self._waiters) + len(self._background_waiters)
        )

    def close(self) -> None:
        """Close all channels: workers end when they have done what they do."""
        for worker in self._workers:
            worker.channel.close()

    async def seal_outputs(
        self,
        request: SealOutputs,
        *,
        outputs_fd: int,
        private_fd: int,
        links_fd: int | None,
    ) -> tuple[SealedOutput, ...]:
        """Seal the outputs of a build.

        Args:
            request: What to seal.
            outputs_fd: The directory of outputs.
            private_fd: A directory that only we can reach, on the store's file
                system; copies are made there.
            links_fd: The deduplicated files; None for no deduplication.

        Raises:
            WorkerError: An output is not what it must be, or the system refuses.
        """
        fds = [outputs_fd, private_fd] + ([links_fd] if links_fd is not None else [])
        return _sealed(request, await self._call(request, fds))

    async def delete_tree(self, dirfd: int, name: str, *, kept_links: int = 0) -> int:
        """Delete an entry of a directory and all below it; see `store.files.delete_tree`.

        Raises:
            WorkerError: Something could not be deleted.
        """
        reply = await self._call(DeleteTree(name, kept_links), [dirfd])
        freed: int = _checked(reply).freed
        return freed

    async def hash_path(
        self,
        dirfd: int,
        name: str,
        algorithm: HashAlgorithm = HashAlgorithm.SHA256,
        *,
        recursive: bool = True,
        background: bool = False,
    ) -> tuple[Digest, int]:
        """Hash the archive form of an entry of a directory, or a file's bytes; give the size too.

        Raises:
            WorkerError: It cannot be read, or is no file where one is meant.
        """
        request = HashPath(name, algorithm.value, recursive)
        reply = _checked(await self._call(request, [dirfd], background=background))
        return Digest(algorithm, reply.digest), reply.size

    async def verify(self, dirfd: int, name: str, nar_hash: Digest) -> bool:
        """Tell whether an entry of a directory still has this hash of its archive form.

        Raises:
            WorkerError: It cannot be read.
        """
        found, _ = await self.hash_path(dirfd, name, nar_hash.algorithm)
        return found == nar_hash

    async def index_links(self, links_fd: int, index_fd: int) -> int:
        """Write down which inodes are deduplicated; give their number. In the background.

        Args:
            links_fd: The directory of deduplicated files.
            index_fd: An empty file, for `share_files`.

        Raises:
            WorkerError: The directory cannot be read, or the file not written.
        """
        reply = await self._call(IndexLinks(), [links_fd, index_fd], background=True)
        inodes: int = _checked(reply).inodes
        return inodes

    async def share_files(
        self, name: str, *, store_fd: int, links_fd: int, index_fd: int
    ) -> ShareFilesReply:
        """Deduplicate an item of the store, in the background.

        Args:
            name: The item's name.
            store_fd: The store.
            links_fd: The directory of deduplicated files.
            index_fd: What `index_links` wrote.
        """
        fds = [store_fd, links_fd, index_fd]
        reply: ShareFilesReply = await self._call(ShareFiles(name), fds, background=True)
        return reply

    async def delete_entries(self, dirfd: int, names: Sequence[str]) -> DeleteEntriesReply:
        """Delete entries of a directory, in the background; what fails is in the reply."""
        request = DeleteEntries(tuple(map(os.fsencode, names)))
        reply: DeleteEntriesReply = await self._call(request, [dirfd], background=True)
        return reply

    async def sweep_links(self, links_fd: int) -> SweepLinksReply:
        """Remove deduplicated files that nothing uses, in the background.

        Raises:
            WorkerError: The directory cannot be read, or a file not be removed.
        """
        reply = await self._call(SweepLinks(), [links_fd], background=True)
        swept: SweepLinksReply = _checked(reply)
        return swept

    async def _call(self, message: object, fds: Sequence[int], *, background: bool = False) -> Any:
        worker = await self._take_worker(self._background_waiters if background else self._waiters)
        request = worker.request = _Request()
        try:
            await worker.channel.send(message, fds)
        except ChannelClosedError as error:
            raise _gone() from error
        except BaseException:
            worker.request = None
            self._put_back(worker)
            raise
        await request.done.wait()
        if request.reply is None:
            raise _gone()
        return request.reply

    async def _take_worker(self, line: deque[_Waiter]) -> _Worker:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._workers:
            raise _gone()
        waiter = _Waiter()
        line.append(waiter)
        self._hand_out()
        if waiter.worker is None:
            try:
                await waiter.woken.wait()
            except BaseException:
                self._leave_line(line, waiter)
                raise
        if waiter.worker is None:
            raise _gone()
        return waiter.worker

    def _leave_line(self, line: deque[_Waiter], waiter: _Waiter) -> None:
        if waiter.worker is not None:
            self._put_back(waiter.worker)
        elif waiter in line:
            line.remove(waiter)

    def _put_back(self, worker: _Worker) -> None:
        worker.background = False
        self._idle.append(worker)
        self._hand_out()

    def _hand_out(self) -> None:
        """Hand free workers to the first in line."""
        while self._idle and (line := self._next_line()) is not None:
            worker, waiter = self._idle.popleft(), line.popleft()
            worker.background = line is self._background_waiters
            waiter.worker = worker
            waiter.woken.set()

    def _next_line(self) -> deque[_Waiter] | None:
        if self._waiters:
            return self._waiters
        busy = sum(worker.background for worker in self._workers)
        if self._background_waiters and busy < self.background_width:
            return self._background_waiters
        return None

    async def _receive(self, worker: _Worker) -> None:
        try:
            while True:
                message, _ = await worker.channel.receive()
                request, worker.request = worker.request, None
                if request is not None:
                    request.reply = message
                    request.done.set()
                self._put_back(worker)
        except ChannelClosedError:
            self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        worker.channel.close()
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.request is not None:
            worker.request.done.set()
        for line in (self._waiters, self._background_waiters):
            while line and not self._workers:
                line.popleft().woken.set()
        self._hand_out()


def _checked(reply: Any) -> Any:
    if reply.failure is not None:
        raise WorkerError(reply.failure)
    return reply


def seal_here(request: SealOutputs, outputs_fd: int) -> tuple[SealedOutput, ...] | None:
    """Seal a few small files here and now; None where a worker is to be asked.

    Args:
        request: What to seal.
        outputs_fd: The directory of outputs, which nobody can change any more, the
            builder included.

    Raises:
        WorkerError: As `StoreWorkers.seal_outputs`.
    """
    reply = seal_small(request, outputs_fd)
    return None if reply is None else _sealed(request, reply)


def _sealed(request: SealOutputs, reply: SealOutputsReply) -> tuple[SealedOutput, ...]:
    if reply.failure is not None:
        raise _seal_error(request, reply.failure)
    return reply.outputs


def _seal_error(request: SealOutputs, failure: Failure) -> WorkerError:
    for output in request.outputs:
        if output.name == failure.output and output.fixed is not None and failure.actual:
            algorithm = HashAlgorithm.parse(output.fixed.algorithm)
            return WorkerError(failure, Digest(algorithm, failure.actual))
    return WorkerError(failure)


def _gone() -> WorkerError:
    return WorkerError(Failure("worker-gone", "a store worker ended unexpectedly"))
