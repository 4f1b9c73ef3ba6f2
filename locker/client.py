# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's side of the locker: locks as context managers.

A lock belongs to an open file description. The descriptors go to the locker, which keeps
duplicates; the daemon may close its own, and so can hold any number of locks with no file open.

Entry points: `Locker.run` as a task, then `Locker.hold` for files that are open already, and
`Locker.acquire` for names that it opens a batch at a time. `locker.pathlocks` knows the
conventions for lock files.
"""

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import Any, Self, TypeVar

import trio

from locker.aio import AsyncChannel
from locker.batches import Batches, BorrowedBatches, OpenedBatches
from locker.errors import ChannelClosedError, LockError, MessageError
from locker.messages import (
    AcquireLocks,
    AcquireLocksReply,
    GetStatistics,
    GetStatisticsReply,
    Outcome,
    ReleaseLocks,
    releases,
)

MAX_STALE_RETRIES = 1000
"""How often in a row one lock file may turn out to be deleted before we conclude that it is
not, but has content, which nobody who keeps the conventions gives a lock file."""

_Name = TypeVar("_Name")


@dataclasses.dataclass(frozen=True, slots=True)
class LockerStatistics:
    """What the daemon's side knows.

    Attributes:
        held: Locks held through the locker.
        pending: Requests without a reply, given up ones included.
        acquired: Locks ever granted.
    """

    held: int
    pending: int
    acquired: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Manner:
    """How files are to be locked; the fields are those of `AcquireLocks`."""

    shared: bool
    wait: bool
    lock_files: bool


class _Request:
    """A request on its way. Once it has arrived, no reply means that the locker is gone."""

    __slots__ = ("arrived", "count", "first", "reply")

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.count = count
        self.arrived = trio.Event()
        self.reply: AcquireLocksReply | None = None


class Lease:
    """Locks that the locker holds for us; an async context manager that releases them."""

    __slots__ = ("_locker", "_tokens")

    def __init__(self, locker: "Locker") -> None:
        self._locker = locker
        self._tokens: list[int] = []

    def __len__(self) -> int:
        return len(self._tokens)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    @property
    def lost(self) -> bool:
        """Whether the locker is gone, and the locks with it."""
        return self._locker.closed

    def extend(self, first: int, count: int) -> None:
        """Add tokens that were granted; for `Locker`."""
        self._tokens += range(first, first + count)

    def disown(self) -> list[int]:
        """Give the tokens to the caller, in the order of the files, to `Locker.release`."""
        tokens, self._tokens = self._tokens, []
        return tokens

    async def release(self, *, deleted: bool = False) -> None:
        """Release all locks; a second call does nothing. Not interrupted by cancellation.

        Args:
            deleted: These are lock files that the caller has unlinked: mark them stale.
        """
        await self._locker.release(self.disown(), deleted=deleted)


class Locker:
    """Takes locks through the locker process.

    Args:
        channel: The channel to it, with `locker.messages.CODEC`; owned from here on.
    """

    def __init__(self, channel: AsyncChannel) -> None:
        self._channel = channel
        self._next_token = 0
        self._requests: dict[int, _Request | None] = {}
        self._questions: deque[trio.MemorySendChannel[GetStatisticsReply]] = deque()
        self._held = 0
        self._acquired = 0

    def statistics(self) -> LockerStatistics:
        """Give counts for status displays and tests."""
        return LockerStatistics(self._held, len(self._requests), self._acquired)

    @property
    def closed(self) -> bool:
        """Whether the locker is gone."""
        return self._channel.closed

    def close(self) -> None:
        """Close the channel: the locker ends, and every lock is released."""
        self._channel.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dispatch replies until cancelled.

        Raises:
            ChannelClosedError: The locker ended, and with it every lock; there is no way to go
                on safely.
            MessageError: The locker sent what it must not send.
        """
        try:
            task_status.started()
            while True:
                message, _ = await self._channel.receive()
                self._dispatch(message)
        finally:
            self._fail_all()

    def _dispatch(self, message: Any) -> None:
        if isinstance(message, AcquireLocksReply) and message.first in self._requests:
            request = self._requests.pop(message.first)
            if request is not None:
                request.reply = message
                request.arrived.set()
        elif isinstance(message, GetStatisticsReply) and self._questions:
            with self._questions.popleft() as answer, contextlib.suppress(trio.BrokenResourceError):
                answer.send_nowait(message)
        else:
            raise MessageError(f"unexpected {type(message).__name__} from the locker")

    def _fail_all(self) -> None:
        self._channel.close()
        for request in self._requests.values():
            if request is not None:
                request.arrived.set()
        self._requests.clear()
        for question in self._questions:
            question.close()

    @contextlib.asynccontextmanager
    async def hold(self, files: Sequence[int], *, shared: bool = False) -> AsyncIterator[Lease]:
        """Hold locks on open files, waiting for them in the order given.

        Args:
            files: Descriptors, each with an open file description of its own; open for reading
                if shared, else for writing. They stay the caller's, who may close them.
            shared: Let other shared locks be held at the same time.

        Raises:
            LockError: The kernel refuses a file.
            ChannelClosedError: The locker is gone.
        """
        manner = _Manner(shared=shared, wait=True, lock_files=False)
        lease = await self._acquire(files, BorrowedBatches(files), manner)
        assert lease is not None
        async with lease:
            yield lease

    @contextlib.asynccontextmanager
    async def try_hold(
        self, files: Sequence[int], *, shared: bool = False
    ) -> AsyncIterator[Lease | None]:
        """Hold locks on open files as `hold` does, or None if others have locked one of them."""
        manner = _Manner(shared=shared, wait=False, lock_files=False)
        lease = await self._acquire(files, BorrowedBatches(files), manner)
        try:
            yield lease
        finally:
            if lease is not None:
                await lease.release()

    async def acquire(
        self,
        names: Sequence[_Name],
        opener: Callable[[_Name], int],
        *,
        shared: bool = False,
        wait: bool = True,
        lock_files: bool = False,
    ) -> Lease | None:
        """Lock files that are opened a batch at a time, and closed here once passed on.

        Args:
            names: What to lock, in the order in which to wait.
            opener: Opens one; it is called again if the file turns out stale.
            shared: Let other shared locks be held at the same time.
            wait: Wait for files that others have locked.
            lock_files: The files are lock files, which may be stale.

        Returns:
            The locks; None if `wait` is false and others have locked a file.

        Raises:
            LockError: The kernel refuses a file, or a lock file is none.
            ChannelClosedError: The locker is gone.
        """
        manner = _Manner(shared, wait, lock_files)
        return await self._acquire(names, OpenedBatches(names, opener), manner)

    async def release(self, tokens: Collection[int], *, deleted: bool = False) -> None:
        """Release tokens, however many; for `Lease`, and for who took them from one."""
        self._held -= len(tokens)
        for message in releases(tokens, deleted=deleted):
            await self._send_uncancelled(message)

    async def inspect(self) -> GetStatisticsReply:
        """Ask the locker for its own counts; what was sent before is counted.

        Raises:
            ChannelClosedError: The locker is gone.
        """
        question, answer = trio.open_memory_channel[GetStatisticsReply](1)
        self._questions.append(question)
        with answer:
            try:
                await self._channel.send(GetStatistics())
            except BaseException:
                self._questions.remove(question)
                raise
            try:
                return await answer.receive()
            except trio.EndOfChannel as error:
                raise ChannelClosedError("the locker is gone") from error

    async def _acquire(
        self, names: Sequence[object], batches: Batches, manner: _Manner
    ) -> Lease | None:
        lease = Lease(self)
        try:
            with contextlib.closing(batches):
                if await self._fill(lease, names, batches, manner):
                    return lease
        except BaseException:
            await lease.release()
            raise
        await lease.release()
        return None

    async def _fill(
        self, lease: Lease, names: Sequence[object], batches: Batches, manner: _Manner
    ) -> bool:
        """Lock all files; False if one is contended and the manner is not to wait."""
        retries = done = 0
        while done < len(names):
            fds = batches.take(done)
            try:
                request = await self._send_request(fds, manner)
            finally:
                batches.drop(fds)
            reply = await self._reply_to(request, partial(batches.look_ahead, done + len(fds)))
            self._account(lease, reply)
            if reply.outcome is Outcome.CONTENDED:
                return False
            retries = 0 if reply.granted else retries + 1
            done += reply.granted
            _check(reply, names[done : done + 1], retries)
        return True

    def _account(self, lease: Lease, reply: AcquireLocksReply) -> None:
        lease.extend(reply.first, reply.granted)
        self._held += reply.granted
        self._acquired += reply.granted

    async def _send_request(self, fds: Sequence[int], manner: _Manner) -> _Request:
        request = _Request(self._next_token, len(fds))
        # The locker wants tokens to ascend; nothing is awaited between here and `send`, which
        # keeps the order.
        self._next_token += len(fds)
        self._requests[request.first] = request
        message = AcquireLocks(request.first, manner.shared, manner.wait, manner.lock_files)
        try:
            await self._channel.send(message, fds)
        except BaseException:
            self._requests.pop(request.first, None)
            raise
        return request

    async def _reply_to(
        self, request: _Request, meanwhile: Callable[[], None]
    ) -> AcquireLocksReply:
        try:
            meanwhile()
            await request.arrived.wait()
        except BaseException:
            await self._give_up(request)
            raise
        if request.reply is None:
            raise ChannelClosedError("the locker is gone")
        return request.reply

    async def _give_up(self, request: _Request) -> None:
        """Release what was, or is about to be, granted; the reply that still comes is dropped."""
        if request.first in self._requests:
            self._requests[request.first] = None
        await self._send_uncancelled(ReleaseLocks(request.first, request.count, deleted=False))

    async def _send_uncancelled(self, message: object) -> None:
        # A locker that is gone holds nothing that would need to be released.
        with contextlib.suppress(ChannelClosedError):
            try:
                self._channel.send_nowait(message)
            except trio.WouldBlock:
                with trio.CancelScope(shield=True):
                    await self._channel.send(message)


def _check(reply: AcquireLocksReply, names: Sequence[object], retries: int) -> None:
    """Raise LockError if the first of these names can never be locked."""
    if reply.outcome is Outcome.REFUSED:
        problem = os.strerror(reply.errno)
        raise LockError(f"cannot lock `{names[0]}': {problem}", reason="lock-refused")
    if reply.outcome is Outcome.STALE and retries > MAX_STALE_RETRIES:
        raise LockError(f"lock file `{names[0]}' is not empty", reason="lock-file-in-use")
