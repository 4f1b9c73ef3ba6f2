# SPDX-License-Identifier: GPL-3.0-or-later
"""The native methods for builds that go on without their client."""

from collections.abc import Sequence
from typing import Any

from builder.errors import BuildError
from builder.options import BuildMode
from builder.scheduling.scheduler import BuildReport
from store.paths import is_derivation
from storedaemon.detached import DetachedBuild
from storedaemon.operations import detaching
from storedaemon.session import Session
from storedaemon.sessions.native_call import Call, Result
from storedaemon.sessions.native_lists import listed


def outcome(call: Call, report: BuildReport) -> Result:
    """Give what a build that succeeded has made.

    Raises:
        BuildError: A target is not there, and nobody can make it.
    """
    if report.unavailable:
        raise BuildError(
            f"path `{report.unavailable[0]}' is not valid, and there is nothing to make it from"
        )
    database = call.services.database
    derivations = filter(is_derivation, report.targets)
    return {"outputs": {drv: database.outputs_by_name(drv) for drv in derivations}}


async def build(call: Call, session: Session, targets: Sequence[str], mode: BuildMode) -> Result:
    """Begin a build, and do not wait for it."""
    begun = await detaching.build_detached(call.services, session, targets, mode)
    return {"detached": begun.number}


async def detach(call: Call) -> Result:
    """Let a build that is going on survive its clients."""
    begun = await detaching.detach(call.services, call.session, call.params.text("path"))
    return {"detached": begun.number}


async def attach(call: Call) -> Result:
    """Follow a build to its end."""
    which = call.params.text("build")
    return outcome(
        call, await detaching.attach(call.services, call.session, which, call.send_events)
    )


async def detached(call: Call) -> Result:
    """List the client's detached builds."""
    found = await detaching.list_detached(call.services, call.session)
    return await listed(call, "builds", map(_map, found), lambda each: len(str(each)))


async def end_detached(call: Call) -> Result:
    """End a detached build, or forget what came of it."""
    number = call.params.number("detached")
    return {"ended": await detaching.end_detached(call.services, call.session, number)}


_TARGETS_SHOWN = 64


def _map(build: DetachedBuild) -> dict[str, Any]:
    return {
        "detached": build.number,
        "user": build.owner.user,
        "uid": build.owner.uid,
        "targets": list(build.targets[:_TARGETS_SHOWN]),
        "state": build.state,
        "message": build.error.message[:4096] if build.error else "",
        "since": build.since,
        "ended": build.ended,
    }
