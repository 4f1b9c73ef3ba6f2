# SPDX-License-Identifier: GPL-3.0-or-later
"""What could be substituted.

Where substitutes are turned off, by the daemon's owner or by the client, and
where there is no program ``guix``, the answer is that there are none.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import trio

from builder.events import BuildEvent, SubstituterOutput
from builder.options import BuildMode
from builder.scheduling.audience import EventQueue
from builder.scheduling.scheduler import Outlook
from builder.substitution.offers import Offer, Sources, substitute_urls
from store.paths import StorePath
from storedaemon.operations.paths import entries
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.session_options import substitute_settings, substitute_sources

Events = Callable[[BuildEvent], Awaitable[None]]


async def query_substitute_urls(services: Services, session: Session) -> list[str]:
    """Return where substitutes are looked for: what the client said, or else the owner."""
    if _sources(services, session) is None:
        return []
    return substitute_urls(substitute_settings(session.options, services.config))


async def query_offers(
    services: Services, session: Session, paths: Sequence[str], events: Events
) -> Mapping[StorePath, Offer]:
    """Return what is offered of some items, valid or not.

    Args:
        services: The daemon's.
        session: The client's.
        paths: The items.
        events: Awaited with what the program prints meanwhile.

    Raises:
        InvalidPathError: A path is not in the store.
        StoreError: The program failed.
    """
    directory = services.directory
    asked = [StorePath(p) for p in entries(directory, paths) if directory.is_store_path(p)]
    sources = _sources(services, session)
    if sources is None or not asked:
        return {}
    question = _Question(services, asked, sources)
    return await question.ask(events)


async def look_ahead(
    services: Services,
    session: Session,
    targets: Sequence[str],
    mode: BuildMode,
    events: Events,
) -> Outlook:
    """Return what a build would build and download; the arguments are those of `build_paths`."""
    options = session.build_options(services.config, mode)
    return await services.scheduler.look_ahead(
        targets, options, session.client, session.roots, events
    )


def _sources(services: Services, session: Session) -> Sources | None:
    if not services.building.substituter.is_present():
        return None
    return substitute_sources(session.options, services.config)


class _Question:
    """A question, and what is told while it is answered."""

    def __init__(self, services: Services, paths: Collection[StorePath], sources: Sources) -> None:
        self._services = services
        self._paths = paths
        self._sources = sources
        self._queue = EventQueue()
        self._offers: Mapping[StorePath, Offer] = {}
        self._error: Exception | None = None

    async def ask(self, events: Events) -> Mapping[StorePath, Offer]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask)
            try:
                async for event in self._queue:
                    await events(event)
            except Exception as error:  # noqa: BLE001 - it is raised below, in no group
                self._error = error
                nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error
        return self._offers

    async def _ask(self) -> None:
        substituter = self._services.building.substituter
        try:
            self._offers = await substituter.ask(self._paths, self._sources, self._listen)
        except Exception as error:  # noqa: BLE001 - as above
            self._error = error
        finally:
            self._queue.close()

    def _listen(self, data: bytes) -> None:
        self._queue.offer(SubstituterOutput("", data))
