# SPDX-License-Identifier: GPL-3.0-or-later
"""The native methods that look after the store: verification, repair, deduplication, failures."""

from storedaemon.operations import maintenance, optimisation, repairing, verification
from storedaemon.sessions.native_call import Call, Result


async def verify(call: Call) -> Result:
    """Compare the store with its database."""
    errors = await verification.verify_store(
        call.services,
        call.session,
        check_contents=call.params.flag("contents"),
        repair=call.params.flag("repair"),
        events=call.send_events,
    )
    return {"errors": errors}


async def repair(call: Call) -> Result:
    """Compare items with what was registered, and repair what is damaged."""
    paths = call.params.texts("paths")
    errors = await repairing.repair_items(call.services, call.session, paths, call.send_events)
    return {"errors": errors}


async def optimise(call: Call) -> Result:
    """Let equal files share their contents."""
    done = await optimisation.optimise_store(call.services, call.session, call.send_events)
    return {"files": done.files, "size": done.size}


async def clear_failed_paths(call: Call) -> Result:
    """Forget remembered failures: those of the paths given, or all."""
    everything = [maintenance.EVERYTHING]
    paths = call.params.texts("paths") if call.params.has("paths") else everything
    await maintenance.clear_failed_paths(call.services, call.session, paths)
    return {}
