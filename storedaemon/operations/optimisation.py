# SPDX-License-Identifier: GPL-3.0-or-later
"""Deduplicating the store: equal files of items share one inode from then on.

Store workers do it, one item at a time each. Entry point: `optimise_store`.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass

from builder.directories import opened
from builder.events import Level, Message
from store.links import open_links
from store.paths import StorePath
from store.spreading import spread
from store.worker.messages import ShareFilesReply
from storedaemon.services import Services
from storedaemon.session import Session

Events = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Optimised:
    """Files that became links to others, and how long these are together, in bytes."""

    files: int
    size: int


@dataclass(frozen=True, slots=True)
class _Bench:
    """What is worked with: open directories, and the index of what is linked already."""

    services: Services
    store_fd: int
    links_fd: int
    index_fd: int

    async def share(self, path: StorePath) -> tuple[StorePath, ShareFilesReply | None]:
        """Deduplicate an item; give None if it has been collected."""
        with self.services.temp_roots.session() as roots:
            await roots.add(path)
            if not self.services.database.is_valid(path):
                return path, None
            reply = await self.services.workers.share_files(
                path.rpartition("/")[2],
                store_fd=self.store_fd,
                links_fd=self.links_fd,
                index_fd=self.index_fd,
            )
            return path, reply


async def optimise_store(services: Services, _session: Session, events: Events) -> Optimised:
    """Let equal files of all registered items share their contents.

    Args:
        services: The daemon's.
        events: Awaited with each message, in order.

    Raises:
        StoreError: The directory of deduplicated files cannot be used.
    """
    paths = sorted(await services.database.all_valid_paths())
    files = size = 0
    with ExitStack() as stack:
        bench = _open_bench(services, stack)
        await services.workers.index_links(bench.links_fd, bench.index_fd)
        width = services.workers.background_width
        async with spread(width, paths, bench.share) as shared:
            async for path, reply in shared:
                if reply is not None:
                    files, size = files + reply.files, size + reply.size
                    await _report(services, path, reply, events)
    return Optimised(files, size)


def _open_bench(services: Services, stack: ExitStack) -> _Bench:
    store_fd = stack.enter_context(opened(services.layout.store))
    links_fd = open_links(store_fd)
    stack.callback(os.close, links_fd)
    index_fd = os.memfd_create("deduplicated", os.MFD_CLOEXEC)
    stack.callback(os.close, index_fd)
    return _Bench(services, store_fd, links_fd, index_fd)


async def _report(
    services: Services, path: StorePath, reply: ShareFilesReply, events: Events
) -> None:
    for below in reply.writable:
        text = f"skipping suspicious writable file `{services.layout.store}/{below}'"
        await events(Message(text, Level.ERROR))
    if reply.failure is not None:
        text = f"error: cannot deduplicate `{path}': {reply.failure.message}"
        await events(Message(text, Level.ERROR))
