# SPDX-License-Identifier: GPL-3.0-or-later
"""The native methods for shells in the places of builders."""

from dataclasses import replace

from builder.container import Terminal
from builder.entering.visit import Talk
from storedaemon.operations import entering
from storedaemon.sessions.native_call import Call, Result
from storedaemon.wire.native.faults import RequestError
from storedaemon.wire.native.params import Params

_MAX_SIDE = 0xFFFF
_MAX_TERM = 64


async def enter(call: Call) -> Result:
    """Run a shell: the body is what it reads, the stream what it prints."""
    params, services = call.params, call.services
    terminal = params.nested("terminal") if params.has("terminal") else None
    wish = replace(
        entering.wish_for(services, call.session, params.text("path"), call.id),
        fresh=params.flag("fresh"),
        words=tuple(params.texts("command", [])),
        terminal=_size(terminal) if terminal else None,
        term=terminal.text("type", "", limit=_MAX_TERM) if terminal else "",
    )

    async def begin(pid: int, kept: str) -> None:
        await call.send_event("entered", {"drv": wish.drv, "pid": pid, "kept": kept})

    talk = Talk(call.next_of_body, call.send_chunk, call.send_events, begin)
    with services.building.visits.visiting(wish) as visit:
        departure = await entering.enter(services, visit, talk)
    status = departure.status
    return {"code": status.code, "signal": status.signal, "kept": departure.kept}


async def end_shell(call: Call) -> Result:
    """End a shell, whoever runs it."""
    number = call.params.number("shell")
    return {"ended": await entering.end_shell(call.services, call.session, number)}


async def resize(call: Call) -> Result:
    """Change the size of a shell's terminal."""
    visits = call.services.building.visits
    visit = visits.of_request(call.session.id, call.params.number("request"))
    if visit is None or not visit.resize(_size(call.params)):
        raise RequestError("not-supported", "that request has no terminal")
    return {}


def _size(params: Params) -> Terminal:
    columns, rows = (params.number(side, 0, limit=_MAX_SIDE) for side in ("columns", "rows"))
    return Terminal(columns, rows)
