# SPDX-License-Identifier: GPL-3.0-or-later
"""Letting builds go on without a client, and coming back to them."""

from collections.abc import Awaitable, Callable, Sequence

from builder.events import BuildEvent
from builder.options import BuildMode
from builder.planning.request_plan import parse_target
from builder.scheduling.scheduler import BuildReport
from store.errors import StoreError
from store.paths import StorePath, is_derivation
from storedaemon.detached import DetachedBuild
from storedaemon.operations.builds import options_for
from storedaemon.services import Services
from storedaemon.session import Session

Events = Callable[[BuildEvent], Awaitable[None]]


async def build_detached(
    services: Services, session: Session, targets: Sequence[str], mode: BuildMode
) -> DetachedBuild:
    """Begin a build that needs no client; the arguments are those of `build_paths`.

    Raises:
        InvalidPathError: A target is no path of the store.
        StoreError: The client may not do that (reason ``not-privileged``), or there are
            too many such builds (``too-many``).
    """
    options = options_for(services, session, mode)
    for target in targets:
        parse_target(target, services.directory)
    _refuse_unknown(session)
    return await services.detached.start(session.client, targets, options, session.options)


async def detach(services: Services, session: Session, path: str) -> DetachedBuild:
    """Let a build that is going on survive those who asked for it.

    Raises:
        InvalidPathError: The path is not in the store.
        StoreError: Nothing builds it (reason ``not-building``), or only for others
            (``not-privileged``).
    """
    drv = services.directory.parse(path)
    jobs = services.scheduler.jobs_of(drv)
    if not jobs:
        raise StoreError(f"nothing builds `{drv}'", reason="not-building")
    _refuse_unknown(session)
    client = session.client
    wanted = any(each.client.uid == client.uid for job in jobs for each in job.followers)
    if not (client.trusted or wanted):
        raise StoreError(f"only others want `{drv}'", reason="not-privileged")
    return await services.detached.start(client, [drv], jobs[0].options, session.options)


async def attach(services: Services, session: Session, which: str, events: Events) -> BuildReport:
    """Follow a build to its end, and return what came of it.

    A detached build of the client is fetched thereby: its result is the client's to keep.
    A build that other clients want is joined, and goes on should they leave.

    Args:
        services: The daemon's.
        session: The client's.
        which: The number of a detached build, or a derivation.
        events: Awaited with each event, in order.

    Raises:
        BuildError: It failed.
        StoreError: There is no such build (reason ``not-building``).
    """
    build = _find(services, session, which)
    if build is None:
        return await _join(services, session, which, events)
    with build.attached() as queue:
        async for event in queue:
            await events(event)
    if build.report is not None:
        outputs = [p for t in build.report.targets for p in _kept(services, t)]
        await session.roots.add(*outputs)
    services.detached.forget(build)
    if build.error is not None:
        raise build.error
    assert build.report is not None, "a build that ended has a report or an error"
    return build.report


async def list_detached(services: Services, session: Session) -> list[DetachedBuild]:
    """Return the client's detached builds; all, if it is trusted."""
    return [build for build in services.detached if _may_see(session, build)]


async def end_detached(services: Services, session: Session, number: int) -> bool:
    """End a detached build, or forget its result; tell whether there was one.

    Raises:
        StoreError: It is somebody else's (reason ``not-privileged``).
    """
    build = services.detached.get(number)
    if build is None:
        return False
    if not _may_see(session, build):
        raise StoreError("it is another user's build", reason="not-privileged")
    services.detached.forget(build)
    return True


def _find(services: Services, session: Session, which: str) -> DetachedBuild | None:
    if which.isdecimal() and len(which) < 16:
        build = services.detached.get(int(which))
        if build is None or not _may_see(session, build):
            raise StoreError(f"there is no detached build {which}", reason="not-building")
        return build
    path = services.directory.parse(which)
    builds = (b for b in services.detached.of_target(path) if _may_see(session, b))
    return next(builds, None)


async def _join(services: Services, session: Session, which: str, events: Events) -> BuildReport:
    drv = services.directory.parse(which)
    jobs = services.scheduler.jobs_of(drv)
    if not jobs:
        raise StoreError(f"nothing builds `{drv}'", reason="not-building")
    return await services.scheduler.build(
        [drv], jobs[0].options, session.client, session.roots, events
    )


def _kept(services: Services, target: StorePath) -> list[StorePath]:
    outputs = services.database.outputs_by_name(target) if is_derivation(target) else {}
    return [target, *outputs.values()]


def _may_see(session: Session, build: DetachedBuild) -> bool:
    client = session.client
    return client.trusted or (client.uid is not None and client.uid == build.owner.uid)


def _refuse_unknown(session: Session) -> None:
    if session.client.uid is None:
        raise StoreError("only known users may detach builds", reason="not-privileged")
