# SPDX-License-Identifier: GPL-3.0-or-later
"""What Guix clients ask that the database answers, and what they set: requests in, replies out.

These are served before the daemon has all its parts. Each handler only reads the fields of a
request and writes those of its reply. Entry points: `QUERIES`, `set_options`.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from storedaemon.basics import Basics
from storedaemon.operations import options, queries
from storedaemon.session import Session
from storedaemon.wire import messages as m

Query = Callable[[Basics, Session, Any], Awaitable[m.Reply]]

_NO_REPLY = m.NoReply()
_TRUE = m.Truth(value=True)
_FALSE = m.Truth(value=False)


async def is_valid_path(basics: Basics, session: Session, asked: Any) -> m.Reply:
    """Answer IsValidPath, of which there are more than of all others together."""
    return _TRUE if await queries.is_valid_path(basics, session, asked.path) else _FALSE


async def query_path_info(basics: Basics, session: Session, asked: Any) -> m.Reply:
    """Answer QueryPathInfo."""
    found = await queries.query_path_info(basics, session, asked.path)
    return m.PathInfoReply(
        found.deriver or "",
        found.nar_hash.base16,
        tuple(sorted(found.references)),
        found.registration_time,
        found.nar_size,
    )


async def query_path_hash(basics: Basics, session: Session, asked: Any) -> m.Reply:
    """Answer QueryPathHash."""
    return m.TextReply((await queries.query_path_hash(basics, session, asked.path)).base16)


async def query_deriver(basics: Basics, session: Session, asked: Any) -> m.Reply:
    """Answer QueryDeriver."""
    return m.TextReply(await queries.query_deriver(basics, session, asked.path) or "")


async def query_path_from_hash_part(
    basics: Basics, session: Session, asked: m.QueryPathFromHashPart
) -> m.Reply:
    """Answer QueryPathFromHashPart."""
    found = await queries.query_path_from_hash_part(basics, session, asked.hash_part)
    return m.TextReply(found or "")


async def query_valid_paths(basics: Basics, session: Session, asked: Any) -> m.Reply:
    """Answer QueryValidPaths."""
    return _texts(await queries.query_valid_paths(basics, session, asked.paths))


async def set_options(basics: Basics, session: Session, asked: m.SetOptions) -> m.Reply:
    """Answer SetOptions."""
    changed = replace(
        session.options,
        # Who is on another machine could not look at the directory, only fill the disk.
        keep_failed=asked.keep_failed and session.client.uid is not None,
        keep_going=asked.keep_going,
        fallback=asked.fallback,
        verbosity=asked.verbosity,
        use_offload=asked.use_build_hook,
        print_build_trace=asked.print_build_trace,
        use_substitutes=asked.use_substitutes,
    )
    await options.set_options(basics, session, changed, (*_old_settings(asked), *asked.settings))
    return _NO_REPLY


def _old_settings(asked: m.SetOptions) -> Iterable[tuple[str, str]]:
    """Give as settings what peers before minor 0x61 say in fields."""
    fields = {
        "build-max-jobs": asked.max_jobs,
        "build-max-silent-time": asked.max_silent_time,
        "build-cores": asked.build_cores,
    }
    return [(name, str(value)) for name, value in fields.items() if value is not None]


def _texts(values: Iterable[str]) -> m.TextsReply:
    return m.TextsReply(tuple(values))


def _related(
    query: Callable[[Basics, Session, str], Awaitable[Iterable[str]]],
) -> Query:
    """Make the handler of a request that names a path and is answered with several."""

    async def handle(basics: Basics, session: Session, asked: Any) -> m.Reply:
        return _texts(await query(basics, session, asked.path))

    return handle


QUERIES: Mapping[type[Any], Query] = MappingProxyType(
    {
        m.IsValidPath: is_valid_path,
        m.QueryPathHash: query_path_hash,
        m.QueryReferences: _related(queries.query_references),
        m.QueryReferrers: _related(queries.query_referrers),
        m.QueryValidDerivers: _related(queries.query_valid_derivers),
        m.QueryDerivationOutputs: _related(queries.query_derivation_outputs),
        m.QueryDerivationOutputNames: _related(queries.query_derivation_output_names),
        m.QueryDeriver: query_deriver,
        m.QueryPathInfo: query_path_info,
        m.QueryPathFromHashPart: query_path_from_hash_part,
        m.QueryValidPaths: query_valid_paths,
    }
)
"""What answers each of these requests."""
