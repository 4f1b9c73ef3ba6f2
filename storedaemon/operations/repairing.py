# SPDX-License-Identifier: GPL-3.0-or-later
"""Repairing items: substituting what is damaged, or building it again from its derivation.

The messages are the reference's to the letter, since people look for them.
Entry points: `repair_items` for items that a client names, `Repairer` for verification.
"""

import os
from collections.abc import Awaitable, Callable, Iterable

from builder.directories import opened
from builder.errors import BuildError
from builder.events import BuildEvent, Damage, ItemDamaged, Level, Message
from builder.options import BuildMode
from store.contents import Content, ContentCheck
from store.errors import NotValidError, StoreError
from store.paths import StorePath
from storedaemon.operations.paths import entry
from storedaemon.services import Services
from storedaemon.session import Session

Events = Callable[[BuildEvent], Awaitable[None]]


def require_trust(session: Session) -> None:
    """Refuse clients that may not have items built again.

    Raises:
        StoreError: The client is not trusted (reason ``not-privileged``).
    """
    if not session.client.trusted:
        raise StoreError("you are not privileged to repair paths", reason="not-privileged")


def content_check(services: Services, store_fd: int) -> ContentCheck:
    """Make what compares items with their registered hashes."""
    return ContentCheck(services.database, services.workers, services.locks, store_fd)


def modified_text(content: Content) -> str:
    """Say in which way an item differs from what was registered."""
    assert content.expected is not None, "it differs from something"
    assert content.actual is not None, "something was found"
    expected, actual = content.expected.base16, content.actual.base16
    return f"path `{content.path}' was modified! expected hash `{expected}', got `{actual}'"


async def repair_items(
    services: Services, session: Session, paths: Iterable[str], events: Events
) -> bool:
    """Compare items with what was registered, and substitute or build again those that differ.

    Args:
        services: The daemon's.
        session: The client's.
        paths: Registered items.
        events: Awaited with each message and build event, in order.

    Returns:
        Whether an item is damaged still.

    Raises:
        StoreError: The client is not trusted (reason ``not-privileged``).
        InvalidPathError: A path is not in the store; then nothing has been done.
        NotValidError: A path is not registered; then nothing has been done.
    """
    require_trust(session)
    items = [_registered(services, path) for path in dict.fromkeys(paths)]
    with opened(services.layout.store) as store_fd:
        check = content_check(services, store_fd)
        repairer = Repairer(services, session, check, events)
        return not all([await repairer.mend(item) for item in items])


def _registered(services: Services, path: str) -> StorePath:
    item = entry(services.directory, path)
    if not services.database.is_valid(item):
        raise NotValidError(f"path `{item}' is not valid")
    return StorePath(item)


class Repairer:
    """Has damaged items substituted or built again for one client.

    Args:
        services: The daemon's.
        session: The client's.
        check: Compares items with their registered hashes.
        events: Awaited with each message and build event, in order.
    """

    def __init__(
        self, services: Services, session: Session, check: ContentCheck, events: Events
    ) -> None:
        self._services = services
        self._session = session
        self._check = check
        self._events = events

    async def mend(self, path: StorePath) -> bool:
        """Look at an item, and build it again if need be; tell whether it is sound now."""
        await self._events(Message(f"checking contents of `{path}'", Level.TALKATIVE))
        content = await self._check.check(path)
        if content.sound:
            return True
        await self._events(Message(_problem_of(content), Level.ERROR))
        repaired = False
        try:
            await self.repair(path)
            repaired = True
        except StoreError as error:
            await self._events(Message(f"error: {error.message}", Level.ERROR))
        await self._events(ItemDamaged(path, _damage_of(content), repaired))
        return repaired

    async def repair(self, path: StorePath) -> None:
        """Substitute an item or, where that fails, build it from the deriver that is registered.

        Raises:
            StoreError: That is not known, fails, or makes something else.
        """
        if not await self._substitute(path):
            await self._rebuild(path)

    async def _substitute(self, path: StorePath) -> bool:
        services, session = self._services, self._session
        options = session.build_options(services.config, BuildMode.REPAIR)
        if options.sources is None:
            return False
        try:
            await services.scheduler.substitute(
                path, options, session.client, session.roots, self._events
            )
        except BuildError:
            return False  # the client was told why, and the item can perhaps be built
        return (await self._check.check(path)).sound

    async def _rebuild(self, path: StorePath) -> None:
        services, session = self._services, self._session
        deriver = services.database.deriver(path)
        if deriver is None or not services.database.is_valid(deriver):
            raise _cannot_repair(path)
        options = session.build_options(services.config, BuildMode.REPAIR)
        await services.scheduler.build(
            [deriver], options, session.client, session.roots, self._events
        )
        # A registered deriver is what somebody said; another derivation repairs nothing.
        if not (await self._check.check(path)).sound:
            raise _cannot_repair(path)


def _problem_of(content: Content) -> str:
    return modified_text(content) if content.modified else content.problem


def _damage_of(content: Content) -> Damage:
    if content.modified:
        return Damage.MODIFIED
    return Damage.UNREADABLE if os.path.lexists(content.path) else Damage.MISSING


def _cannot_repair(path: StorePath) -> StoreError:
    return StoreError(f"cannot repair path `{path}'", reason="cannot-repair")
