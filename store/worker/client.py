# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's side of the store workers: a pool that hands out one request at a time to each.

Entry points: `start_workers` before the daemon has threads, then `StoreWorkers`.
"""

import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio

from locker.aio import AsyncChannel
from locker.start import StartedHelper, start_helper
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.sealing import ContentMismatchError
from store.worker.messages import (
    CODEC,
    Deleted,
    DeleteTree,
    HashedPath,
    HashMismatch,
    HashPath,
    Refused,
    Reply,
    Request,
    SealedOutputs,
    SealOutputs,
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def start_workers(count: int) -> list[StartedHelper]:
    """Start worker processes; must come before this process's first thread."""
    return [start_helper("store.worker") for _ in range(count)]


class StoreWorkers:
    """Store workers, each doing one thing at a time; requests are taken in their order.

    A request that was sent is waited for even when its caller is cancelled: what
    it does to files cannot be taken back half-way.

    Args:
        channels: One to each worker, with `messages.CODEC`.
    """

    def __init__(self, channels: Iterable[AsyncChannel]) -> None:
        self._channels = list(channels)
        self._free = list(self._channels)
        # A trio semaphore wakes those who wait in their order.
        self._slots = trio.Semaphore(len(self._channels))

    @classmethod
    def from_helpers(cls, helpers: Iterable[StartedHelper]) -> "StoreWorkers":
        """Make a pool of processes that `start_workers` started."""
        return cls(AsyncChannel(helper.socket, CODEC) for helper in helpers)

    def close(self) -> None:
        """Close the channels, which ends the workers."""
        for channel in self._channels:
            channel.close()

    async def seal(
        self, request: SealOutputs, left: int, private: int, store: int
    ) -> SealedOutputs:
        """Have outputs sealed.

        Args:
            request: What, and how.
            left: The directory the builder left them in.
            private: A directory nobody else can enter, on the store's file system.
            store: The store.

        Raises:
            ContentMismatchError: A fixed output has other content than was stated.
            StoreError: An output is not acceptable; the reason tells why.
        """
        reply = await self._ask(request, (left, private, store))
        if isinstance(reply, HashMismatch):
            fixed = {each.path: each.fixed for each in request.outputs}[reply.path]
            assert fixed is not None, "only a fixed output can be another than was stated"
            raise ContentMismatchError(reply.path, fixed, reply.actual)
        assert isinstance(reply, SealedOutputs)
        return reply

    async def delete(self, path: str) -> int:
        """Delete a tree, as far as it exists; return the bytes of disk freed.

        Args:
            path: Absolute; what is above its last component must be ours alone.

        Raises:
            StoreError: Something could not be deleted.
        """
        with _parent(path) as (fd, name):
            reply = await self._ask(DeleteTree(name), (fd,))
        assert isinstance(reply, Deleted)
        return reply.freed

    async def hash(
        self, path: str, algorithm: HashAlgorithm = HashAlgorithm.SHA256
    ) -> tuple[Digest, int]:
        """Return the hash and the size in bytes of the archive form of what lies at a path.

        Raises:
            StoreError: It is not there, or not what an archive can hold.
        """
        with _parent(path) as (fd, name):
            reply = await self._ask(HashPath(name, algorithm), (fd,))
        assert isinstance(reply, HashedPath)
        return Digest(algorithm, reply.digest), reply.size

    async def _ask(self, request: Request, fds: Sequence[int]) -> Reply:
        async with self._borrowed() as channel:
            with trio.CancelScope(shield=True):
                await channel.send(request, fds)
                reply: Reply
                reply, _ = await channel.receive()
        if isinstance(reply, Refused):
            raise StoreError(reply.message, reason=reply.reason)
        return reply

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[AsyncChannel]:
        await self._slots.acquire()
        channel = self._free.pop()
        try:
            yield channel
        finally:
            self._free.append(channel)
            self._slots.release()


@contextmanager
def _parent(path: str) -> Iterator[tuple[int, str]]:
    directory, _, name = path.rpartition("/")
    fd = os.open(directory or "/", _DIRECTORY)
    try:
        yield fd, name
    finally:
        os.close(fd)
