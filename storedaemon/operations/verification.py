# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifying the store: what is registered is there, and is what it was.

The messages are the reference's to the letter, since people look for them.
Nothing is held while a client is told something: one that does not read delays
itself only. Entry point: `verify_store`.
"""

from collections.abc import Awaitable, Callable, Sequence

from builder.directories import opened
from builder.events import BuildEvent, Damage, ItemDamaged, Level, Message
from store.contents import Content, ContentCheck
from store.errors import StoreError
from store.existence import Fate, Lost, check_existence
from store.paths import StorePath
from store.spreading import spread
from storedaemon.operations.repairing import (
    Repairer,
    content_check,
    modified_text,
    require_trust,
)
from storedaemon.services import Services
from storedaemon.session import Session

Events = Callable[[BuildEvent], Awaitable[None]]


async def verify_store(
    services: Services, session: Session, *, check_contents: bool, repair: bool, events: Events
) -> bool:
    """Compare the store with its database; return whether anything is wrong that was not mended.

    What is registered, but not there, is forgotten where nothing refers to it.

    Args:
        services: The daemon's.
        session: The client's.
        check_contents: Whether to hash all items as well.
        repair: Whether to substitute or build again what is damaged, and what is gone but needed.
        events: Awaited with each message and build event, in order.

    Raises:
        StoreError: Repairing needs trust (reason ``not-privileged``).
    """
    if repair:
        require_trust(session)
    with opened(services.layout.store) as store_fd:
        check = content_check(services, store_fd)
        repairer = Repairer(services, session, check, events) if repair else None
        verification = _Verification(services, check, events, repairer)
        await verification.run(check_contents=check_contents)
    return verification.errors


class _Verification:
    """One verification.

    Attributes:
        errors: Whether something is wrong that was not mended.
    """

    def __init__(
        self,
        services: Services,
        check: ContentCheck,
        events: Events,
        repairer: Repairer | None,
    ) -> None:
        self._services = services
        self._check = check
        self._events = events
        self._repairer = repairer
        self.errors = False

    async def run(self, *, check_contents: bool) -> None:
        services = self._services
        await self._tell("reading the store...")
        await self._tell("checking path existence...", Level.INFO)
        found = await check_existence(services.database, services.directory, services.locks)
        for lost in found.lost:
            await self._report_lost(lost)
        if check_contents:
            await self._tell("checking hashes...", Level.INFO)
            await self._check_contents(found.present)

    async def _tell(self, text: str, level: Level = Level.ERROR) -> None:
        await self._events(Message(text, level))

    async def _report_lost(self, lost: Lost) -> None:
        path = lost.path
        if lost.fate is Fate.NOT_IN_STORE:
            await self._tell(f"path `{path}' is not in the store")
            await self._events(ItemDamaged(path, Damage.FORGOTTEN))
            return
        if lost.fate is Fate.FORGOTTEN:
            await self._tell(f"path `{path}' disappeared, removing from database...")
            await self._events(ItemDamaged(path, Damage.FORGOTTEN))
            return
        await self._tell(f"path `{path}' disappeared, but it still has valid referrers!")
        await self._mend(path, Damage.MISSING, "warning")

    async def _check_contents(self, paths: Sequence[StorePath]) -> None:
        width = self._services.workers.background_width
        async with spread(width, paths, self._check.check) as found:
            async for content in found:
                await self._report_content(content)

    async def _report_content(self, content: Content) -> None:
        path = content.path
        await self._tell(f"checking contents of `{path}'", Level.TALKATIVE)
        if content.problem:
            self.errors = True
            await self._tell(f"error: {content.problem}")
            await self._events(ItemDamaged(path, Damage.UNREADABLE))
        if content.hash_added:
            await self._tell(f"fixing missing hash on `{path}'")
        if content.size_added:
            await self._tell(f"updating size field on `{path}' to {content.size}")
        if content.modified:
            await self._tell(modified_text(content))
            await self._mend(path, Damage.MODIFIED, "error")

    async def _mend(self, path: StorePath, damage: Damage, severity: str) -> None:
        """Repair an item if that is asked for, and tell what came of it."""
        repaired = False
        if self._repairer is not None:
            try:
                await self._repairer.repair(path)
                repaired = True
            except StoreError as error:
                await self._tell(f"{severity}: {error.message}")
        self.errors = self.errors or not repaired
        await self._events(ItemDamaged(path, damage, repaired))
