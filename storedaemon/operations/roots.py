# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps items from being collected as garbage."""

from collections.abc import Awaitable, Callable

import trio

from builder.events import Message
from store import roots
from store.paths import StorePath
from store.root_finder import Root
from storedaemon.operations.paths import entry
from storedaemon.services import Services
from storedaemon.session import Session


async def add_temp_root(services: Services, session: Session, path: str) -> None:
    """Keep an item, valid or not, until the session ends.

    It need not even have the name of one: Guix keeps temporary files in the store so.

    Raises:
        InvalidPathError: The path is not in the store.
    """
    await session.roots.add(StorePath(entry(services.directory, path)))


async def add_indirect_root(services: Services, _session: Session, link: str) -> str:
    """Let a client's symbolic link keep what it points to; return the link made for it.

    Raises:
        InvalidPathError: The link's name is not absolute.
        OSError: The link cannot be made.
    """
    return await trio.to_thread.run_sync(roots.add_indirect_root, services.layout, link)


async def find_roots(
    services: Services, _session: Session, events: Callable[[Message], Awaitable[None]]
) -> list[Root]:
    """Return every link that keeps an item, sorted; what sessions keep is not among them.

    Indirect roots whose link is gone are removed.

    Args:
        services: The daemon's.
        events: Awaited with remarks on what is no root.

    Raises:
        OSError: Something cannot be read, and no user is to blame.
    """

    async def report(text: str) -> None:
        await events(Message(text))

    return await services.root_finder.find(report)


async def sync_with_gc(services: Services, _session: Session) -> None:
    """Wait until no collection is going on."""
    await services.temp_roots.sync_with_collector()
