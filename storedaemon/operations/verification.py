# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifying the store: what is registered is there, and is what it was.

The messages are the reference's to the letter, since people look for them.
Nothing is held while a client is told something: one that does not read delays
itself only. Entry point: `verify_store`.
"""

from collections.abc import Awaitable, Callable, Sequence

from builder.directories import opened
from builder.events import BuildEvent, Level, Message
from builder.options import BuildMode
from store.contents import Content, ContentCheck
from store.errors import StoreError
from store.existence import Fate, Lost, check_existence
from store.paths import StorePath
from store.spreading import spread
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
        repair: Whether to build again what is damaged, and what is gone but needed.
        events: Awaited with each message and build event, in order.

    Raises:
        StoreError: Repairing needs trust (reason ``not-privileged``).
    """
    if repair and not session.client.trusted:
        raise StoreError("you are not privileged to repair paths", reason="not-privileged")
    with opened(services.layout.store) as store_fd:
        check = ContentCheck(services.database, services.workers, services.locks, store_fd)
        verification = _Verification(services, session, check, events, repair=repair)
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
        session: Session,
        check: ContentCheck,
        events: Events,
        *,
        repair: bool,
    ) -> None:
        self._services = services
        self._session = session
        self._check = check
        self._events = events
        self._repair = repair
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
            return
        if lost.fate is Fate.FORGOTTEN:
            await self._tell(f"path `{path}' disappeared, removing from database...")
            return
        await self._tell(f"path `{path}' disappeared, but it still has valid referrers!")
        if not self._repair:
            self.errors = True
            return
        try:
            await self._rebuild(path)
        except StoreError as error:
            await self._tell(f"warning: {error.message}")
            self.errors = True

    async def _check_contents(self, paths: Sequence[StorePath]) -> None:
        width = self._services.workers.background_width
        async with spread(width, paths, self._check.check) as found:
            async for content in found:
                await self._report_content(content)

    async def _report_content(self, content: Content) -> None:
        path = content.path
        await self._tell(f"checking contents of `{path}'", Level.TALKATIVE)
        if content.problem:
            await self._fail(content.problem)
        if content.hash_added:
            await self._tell(f"fixing missing hash on `{path}'")
        if content.size_added:
            await self._tell(f"updating size field on `{path}' to {content.size}")
        if content.modified:
            await self._report_modified(content)

    async def _report_modified(self, content: Content) -> None:
        assert content.expected is not None, "it differs from something"
        assert content.actual is not None, "something was found"
        expected, actual = content.expected.base16, content.actual.base16
        await self._tell(
            f"path `{content.path}' was modified! expected hash `{expected}', got `{actual}'"
        )
        if not self._repair:
            self.errors = True
            return
        try:
            await self._rebuild(content.path)
        except StoreError as error:
            await self._fail(error.message)

    async def _fail(self, text: str) -> None:
        self.errors = True
        await self._tell(f"error: {text}")

    async def _rebuild(self, path: StorePath) -> None:
        """Build an item again from the derivation that is said to have made it.

        Raises:
            StoreError: That is not known, fails, or makes something else.
        """
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


def _cannot_repair(path: StorePath) -> StoreError:
    return StoreError(f"cannot repair path `{path}'", reason="cannot-repair")
