# SPDX-License-Identifier: GPL-3.0-or-later
"""The operations as Guix clients ask for them, but for what `guix_queries` has.

Each handler only reads the fields of a request and writes those of its reply;
what is done is in `storedaemon.operations`. Entry points: `HANDLERS`, `LONG`.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from builder.errors import BuildError
from builder.events import BuildEvent, BuildFailed, FailureKind, Level, Message
from builder.substitution.offers import Offer
from store.collection import Action, Event, Wish
from store.units import show_bytes
from storedaemon.garbage_texts import texts
from storedaemon.operations import (
    additions,
    builds,
    garbage,
    info,
    maintenance,
    optimisation,
    queries,
    roots,
    substitutes,
    verification,
)
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.wire import messages as m


class Tell(Protocol):
    """Tells the client of events, in order."""

    async def __call__(self, *events: BuildEvent) -> None:
        """Show them, as far as the client wants to see them."""

    def at_once(self, event: BuildEvent) -> bool:
        """Show one without waiting; where this gives False, the next call has to show it."""


Handler = Callable[[Services, Session, Any, Tell], Awaitable[m.Reply]]

NO_LIMIT = 2**64 - 1
"""What clients say for a limit when they want none."""

_ACTIONS = {
    m.GarbageAction.RETURN_LIVE: Action.LIST_LIVE,
    m.GarbageAction.RETURN_DEAD: Action.LIST_DEAD,
    m.GarbageAction.DELETE_DEAD: Action.DELETE_DEAD,
    m.GarbageAction.DELETE_SPECIFIC: Action.DELETE_SPECIFIC,
}
_DONE = m.Done()
_TRUE = m.Truth(value=True)
_FALSE = m.Truth(value=False)


async def query_all_valid_paths(services: Services, session: Session, _: Any, __: Tell) -> m.Reply:
    """Answer QueryAllValidPaths."""
    return _texts(await queries.query_all_valid_paths(services, session))


async def add_text_to_store(
    services: Services, session: Session, asked: m.AddTextToStore, _: Tell
) -> m.Reply:
    """Answer AddTextToStore."""
    return m.TextReply(
        await additions.add_text(services, session, asked.name, asked.text, asked.references)
    )


async def build_paths(
    services: Services, session: Session, asked: m.BuildPaths, tell: Tell
) -> m.Reply:
    """Answer BuildPaths.

    A result that differs from an earlier one ends the C++ daemon's request there
    and then, so its text is the error that clients expect.
    """
    differing: list[str] = []

    async def listen(event: BuildEvent) -> None:
        if isinstance(event, BuildFailed) and event.kind is FailureKind.NOT_DETERMINISTIC:
            differing.append(event.message)
        await tell(event)

    def tell_now(event: BuildEvent) -> bool:
        return not isinstance(event, BuildFailed) and tell.at_once(event)

    try:
        await builds.build_paths(services, session, asked.paths, asked.mode, listen, tell_now)
    except BuildError as error:
        if differing:
            raise BuildError(differing[0], FailureKind.NOT_DETERMINISTIC) from error
        raise
    return _DONE


async def ensure_path(services: Services, session: Session, asked: Any, tell: Tell) -> m.Reply:
    """Answer EnsurePath."""
    await builds.ensure_path(services, session, asked.path, tell)
    return _DONE


async def add_temp_root(services: Services, session: Session, asked: Any, _: Tell) -> m.Reply:
    """Answer AddTempRoot."""
    await roots.add_temp_root(services, session, asked.path)
    return _DONE


async def add_indirect_root(
    services: Services, session: Session, asked: m.AddIndirectRoot, _: Tell
) -> m.Reply:
    """Answer AddIndirectRoot."""
    await roots.add_indirect_root(services, session, asked.path)
    return _DONE


async def sync_with_gc(services: Services, session: Session, _: Any, __: Tell) -> m.Reply:
    """Answer SyncWithGC."""
    await roots.sync_with_gc(services, session)
    return _DONE


async def find_roots(services: Services, session: Session, _: Any, tell: Tell) -> m.Reply:
    """Answer FindRoots."""
    found = await roots.find_roots(services, session, tell)
    return m.RootsReply(tuple((root.link, root.item) for root in found))


async def collect_garbage(
    services: Services, session: Session, asked: m.CollectGarbage, tell: Tell
) -> m.Reply:
    """Answer CollectGarbage.

    The C++ daemon overlooks the temporary roots of the session that asks, since a
    process's own locks do not stop it. Guix counts on that when it deletes what it
    has just added.
    """
    paths = [services.directory.parse(path) for path in asked.paths]
    limit = None if asked.max_freed == NO_LIMIT else asked.max_freed
    wish = Wish(_ACTIONS[asked.action], paths, limit)

    async def report(event: Event) -> None:
        await tell(*texts(event, wish, services.layout.store))

    session.roots.close()
    done = await garbage.collect_garbage(
        services, session, wish, report, ignore_liveness=asked.ignore_liveness
    )
    return m.GarbageReply(done.paths, done.freed)


async def verify_store(
    services: Services, session: Session, asked: m.VerifyStore, tell: Tell
) -> m.Reply:
    """Answer VerifyStore."""
    errors = await verification.verify_store(
        services, session, check_contents=asked.check_contents, repair=asked.repair, events=tell
    )
    return _TRUE if errors else _FALSE


async def optimise_store(services: Services, session: Session, _: Any, tell: Tell) -> m.Reply:
    """Answer OptimiseStore."""
    done = await optimisation.optimise_store(services, session, tell)
    text = f"{show_bytes(done.size)} freed by hard-linking {done.files} files"
    await tell(Message(text, Level.ERROR))
    return _DONE


async def query_failed_paths(services: Services, session: Session, _: Any, __: Tell) -> m.Reply:
    """Answer QueryFailedPaths."""
    return _texts(await maintenance.query_failed_paths(services, session))


async def clear_failed_paths(services: Services, session: Session, asked: Any, _: Tell) -> m.Reply:
    """Answer ClearFailedPaths."""
    await maintenance.clear_failed_paths(services, session, asked.paths)
    return _DONE


async def builtin_builders(services: Services, session: Session, _: Any, __: Tell) -> m.Reply:
    """Answer BuiltinBuilders."""
    return _texts(await info.builtin_builders(services, session))


async def substitute_urls(services: Services, session: Session, _: Any, __: Tell) -> m.Reply:
    """Answer SubstituteURLs."""
    return _texts(await substitutes.query_substitute_urls(services, session))


async def has_substitutes(services: Services, session: Session, asked: Any, tell: Tell) -> m.Reply:
    """Answer HasSubstitutes."""
    found = await substitutes.query_offers(services, session, (asked.path,), tell)
    return _TRUE if asked.path in found else _FALSE


async def query_substitutable_paths(
    services: Services, session: Session, asked: m.QuerySubstitutablePaths, tell: Tell
) -> m.Reply:
    """Answer QuerySubstitutablePaths."""
    found = await substitutes.query_offers(services, session, asked.paths, tell)
    return _texts(sorted(found))


def _texts(values: Iterable[str]) -> m.TextsReply:
    return m.TextsReply(tuple(values))


async def query_substitutable_path_info(
    services: Services, session: Session, asked: Any, tell: Tell
) -> m.Reply:
    """Answer QuerySubstitutablePathInfo."""
    found = await substitutes.query_offers(services, session, (asked.path,), tell)
    infos = [_substitutable(offer, path="") for offer in found.values()]
    return m.SubstitutableReply(infos[0] if infos else None)


async def query_substitutable_path_infos(
    services: Services, session: Session, asked: m.QuerySubstitutablePathInfos, tell: Tell
) -> m.Reply:
    """Answer QuerySubstitutablePathInfos."""
    found = await substitutes.query_offers(services, session, asked.paths, tell)
    return m.SubstitutablesReply(
        tuple(_substitutable(offer, offer.path) for _, offer in sorted(found.items()))
    )


def _substitutable(offer: Offer, path: str) -> m.Substitutable:
    return m.Substitutable(
        path=path,
        deriver=offer.deriver or "",
        references=tuple(sorted(offer.references)),
        download_size=offer.download_size,
        nar_size=offer.nar_size,
    )


HANDLERS: Mapping[type[Any], Handler] = MappingProxyType(
    {
        m.HasSubstitutes: has_substitutes,
        m.QueryAllValidPaths: query_all_valid_paths,
        m.QuerySubstitutablePathInfo: query_substitutable_path_info,
        m.QuerySubstitutablePathInfos: query_substitutable_path_infos,
        m.QuerySubstitutablePaths: query_substitutable_paths,
        m.AddTextToStore: add_text_to_store,
        m.BuildPaths: build_paths,
        m.EnsurePath: ensure_path,
        m.AddIndirectRoot: add_indirect_root,
        m.AddTempRoot: add_temp_root,
        m.SyncWithGC: sync_with_gc,
        m.QueryFailedPaths: query_failed_paths,
        m.ClearFailedPaths: clear_failed_paths,
        m.BuiltinBuilders: builtin_builders,
        m.SubstituteURLs: substitute_urls,
        m.FindRoots: find_roots,
        m.CollectGarbage: collect_garbage,
        m.OptimiseStore: optimise_store,
        m.VerifyStore: verify_store,
    }
)
"""What answers each request, but for queries, and those whose streams the session moves."""

LONG: frozenset[type[Any]] = frozenset(
    {
        m.BuildPaths,
        m.EnsurePath,
        m.HasSubstitutes,
        m.QuerySubstitutablePaths,
        m.QuerySubstitutablePathInfo,
        m.QuerySubstitutablePathInfos,
        m.SyncWithGC,
        m.CollectGarbage,
        m.QueryAllValidPaths,
        m.FindRoots,
        m.OptimiseStore,
        m.VerifyStore,
    }
)
"""Requests that may wait for others or take long: a client that hangs up meanwhile ends them."""
