# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of any length in results: all but the last part comes in events. Entry point: `listed`."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from storedaemon.sessions.native_call import Call, Result

_TEXT_IN_FRAME = 24_576
"""Characters of texts in one message; a longer list comes in several."""

Thing = TypeVar("Thing")


async def listed(
    call: Call, name: str, things: Iterable[Thing], length: Callable[[Thing], int]
) -> Result:
    """Send all but the last part of a list as events; give the last as the result."""
    parts = list(_parts(things, length))
    for part in parts[:-1]:
        await call.send_event(name, {name: part})
    return {name: parts[-1]}


def _parts(things: Iterable[Thing], length: Callable[[Thing], int]) -> Iterable[list[Thing]]:
    part: list[Thing] = []
    size = 0
    for thing in things:
        if part and size + length(thing) > _TEXT_IN_FRAME:
            yield part
            part, size = [], 0
        part.append(thing)
        size += length(thing)
    yield part
