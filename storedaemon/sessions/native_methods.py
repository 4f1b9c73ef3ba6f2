# SPDX-License-Identifier: GPL-3.0-or-later
"""The methods of the native dialect: each reads its parameters, runs an operation, writes a result.

`docs/protocol.md` has the same table for people. Entry point: `METHODS`.
"""

from collections.abc import Mapping

from builder.options import BuildMode
from store.paths import StorePath
from storedaemon.operations import (
    builds,
    content_sources,
    history,
    info,
    maintenance,
    queries,
    roots,
    statistics,
)
from storedaemon.operations.paths import entry
from storedaemon.sessions import native_control as control
from storedaemon.sessions import native_detaching as detaching
from storedaemon.sessions import native_entering as entering
from storedaemon.sessions.native_additions import add, add_derivation, add_text
from storedaemon.sessions.native_call import Call, Method, Result
from storedaemon.sessions.native_exports import export_items, import_items
from storedaemon.sessions.native_garbage import collect_garbage, dead, live, why_alive
from storedaemon.sessions.native_lists import listed
from storedaemon.sessions.native_maintenance import clear_failed_paths, optimise, repair, verify
from storedaemon.sessions.native_options import session_for
from storedaemon.sessions.native_substitutes import plan, substitutable
from storedaemon.wire.native import records
from storedaemon.wire.native.attempts import attempt_map, flaky_map
from storedaemon.wire.native.content_sources import source_map
from storedaemon.wire.native.faults import RequestError
from storedaemon.wire.native.statistics import statistics_map

_MODES: Mapping[str, BuildMode] = {mode.name.lower(): mode for mode in BuildMode}


async def _ping(_call: Call) -> Result:
    return {}


async def _status(call: Call) -> Result:
    sessions = await info.list_sessions(call.services, call.session)
    goals = await info.list_jobs(call.services, call.session)
    return {
        "sessions": len(sessions),
        "goals": len(goals),
        "building": sum(goal.builds_here for goal in goals),
        "offloaded": sum(goal.offloaded for goal in goals),
        "max-jobs": call.services.settings.max_jobs,
        "watchers": call.services.scheduler.watchers.count,
    }


async def _is_valid(call: Call) -> Result:
    path = call.params.text("path")
    return {"valid": await queries.is_valid_path(call.services, call.session, path)}


async def _path_info(call: Call) -> Result:
    path = call.params.text("path")
    return records.path_info_map(await queries.query_path_info(call.services, call.session, path))


async def _path_from_hash_part(call: Call) -> Result:
    part = call.params.text("hash", limit=64)
    path = await queries.query_path_from_hash_part(call.services, call.session, part)
    return {"path": path}


async def _references(call: Call) -> Result:
    path = call.params.text("path")
    return await _paths(call, await queries.query_references(call.services, call.session, path))


async def _referrers(call: Call) -> Result:
    path = call.params.text("path")
    return await _paths(call, await queries.query_referrers(call.services, call.session, path))


async def _derivers(call: Call) -> Result:
    path = call.params.text("path")
    return await _paths(call, await queries.query_valid_derivers(call.services, call.session, path))


async def _closure(call: Call) -> Result:
    paths = call.params.texts("paths")
    return await _paths(call, await queries.query_closure(call.services, call.session, paths))


async def _valid_paths(call: Call) -> Result:
    paths = call.params.texts("paths")
    return await _paths(call, await queries.query_valid_paths(call.services, call.session, paths))


async def _paths(call: Call, paths: list[StorePath]) -> Result:
    return await listed(call, "paths", paths, len)


async def _derivation_outputs(call: Call) -> Result:
    path = call.params.text("path")
    drv = entry(call.services.directory, path)
    return {"outputs": call.services.database.outputs_by_name(drv)}


async def _build(call: Call) -> Result:
    mode = call.params.choice("mode", _MODES, "normal")
    session = session_for(call)
    targets = call.params.texts("targets")
    if call.params.flag("detach"):
        return await detaching.build(call, session, targets, mode)
    report = await builds.build_paths(call.services, session, targets, mode, call.send_events)
    return detaching.outcome(call, report)


async def _attempts(call: Call) -> Result:
    path = call.params.text("path")
    attempts = await history.attempts(call.services, call.session, path)
    return {"attempts": [attempt_map(each) for each in attempts]}


async def _flaky(call: Call) -> Result:
    found = await history.flaky(call.services, call.session)
    return {"flaky": [flaky_map(each) for each in found]}


async def _content_sources(call: Call) -> Result:
    found = await content_sources.content_sources(call.services, call.session)
    return {"sources": [source_map(each) for each in found]}


async def _export(call: Call) -> Result:
    return await _paths(call, await export_items(call))


async def _import(call: Call) -> Result:
    return await _paths(call, await import_items(call))


async def _ps(call: Call) -> Result:
    return await listed(call, "goals", await control.goals(call), control.goal_length)


async def _stats(call: Call) -> Result:
    return statistics_map(await statistics.statistics(call.services, call.session))


async def _cancel_build(call: Call) -> Result:
    path = call.params.text("path")
    return {"cancelled": await builds.cancel_build(call.services, call.session, path)}


async def _add_root(call: Call) -> Result:
    await roots.add_indirect_root(call.services, call.session, call.params.text("link"))
    return {}


async def _add_temporary_root(call: Call) -> Result:
    await roots.add_temp_root(call.services, call.session, call.params.text("path"))
    return {}


async def _roots(call: Call) -> Result:
    found = await roots.find_roots(call.services, call.session, call.send_events)
    maps = [records.root_map(root.link, root.item) for root in found]
    return await listed(call, "roots", maps, _root_length)


def _root_length(root: Mapping[str, str]) -> int:
    return sum(map(len, root.values()))


async def _failed_paths(call: Call) -> Result:
    return await _paths(call, await maintenance.query_failed_paths(call.services, call.session))


METHODS: Mapping[str, Method] = {
    "ping": Method(_ping, at_once=True),
    "status": Method(_status, at_once=True),
    "is-valid": Method(_is_valid, at_once=True),
    "path-info": Method(_path_info, at_once=True),
    "path-from-hash-part": Method(_path_from_hash_part, at_once=True),
    "derivation-outputs": Method(_derivation_outputs, at_once=True),
    "references": Method(_references),
    "referrers": Method(_referrers),
    "derivers": Method(_derivers),
    "closure": Method(_closure),
    "valid-paths": Method(_valid_paths),
    "add-text": Method(add_text, takes_body=True),
    "add": Method(add, takes_body=True),
    "add-derivation": Method(add_derivation),
    "export": Method(_export),
    "import": Method(_import, takes_body=True),
    "add-root": Method(_add_root),
    "add-temporary-root": Method(_add_temporary_root),
    "roots": Method(_roots, lasts=True),
    "collect-garbage": Method(collect_garbage, lasts=True),
    "live": Method(live, lasts=True),
    "dead": Method(dead, lasts=True),
    "why-alive": Method(why_alive, lasts=True),
    "verify": Method(verify, lasts=True),
    "repair": Method(repair, lasts=True),
    "optimise": Method(optimise, lasts=True),
    "failed-paths": Method(_failed_paths),
    "clear-failed-paths": Method(clear_failed_paths),
    "build": Method(_build, lasts=True),
    "attempts": Method(_attempts),
    "flaky": Method(_flaky),
    "content-sources": Method(_content_sources),
    "plan": Method(plan, lasts=True),
    "substitutable": Method(substitutable, lasts=True),
    "cancel-build": Method(_cancel_build),
    "log": Method(control.log, lasts=True),
    "ps": Method(_ps),
    "set-priority": Method(control.set_priority),
    "subscribe": Method(control.subscribe, lasts=True),
    "detach": Method(detaching.detach),
    "attach": Method(detaching.attach, lasts=True),
    "detached": Method(detaching.detached),
    "end-detached": Method(detaching.end_detached),
    "enter": Method(entering.enter, takes_body=True, lasts=True),
    "end-shell": Method(entering.end_shell),
    "resize": Method(entering.resize, at_once=True),
    "stats": Method(_stats),
}
"""Every method, by its name in requests."""


async def _unknown(call: Call) -> Result:
    known = ", ".join(sorted(METHODS))
    raise RequestError(
        "unknown-method", f"there is no method '{call.method:.80}'; there are {known}"
    )


UNKNOWN = Method(_unknown, at_once=True)
"""What is served in the place of a method that does not exist."""
