# SPDX-License-Identifier: GPL-3.0-or-later
"""Work of any size without holding up the event loop: by a thread, or in portions.

A trip to a thread costs a tenth of a millisecond or two, which little work is not
worth. What changes the state of tasks cannot leave the loop; between two portions
of that, others get their turn. Entry points: `run`, `portions`.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import trio

PORTION = 1024
"""Things dealt with between two checkpoints: some milliseconds of work."""

_Thing = TypeVar("_Thing")


async def run(work: Callable[[], _Thing], *, much: bool) -> _Thing:
    """Do some work, in a thread if it is much; otherwise there is no checkpoint."""
    return await trio.to_thread.run_sync(work) if much else work()


def portions(things: Iterable[_Thing]) -> Iterator[list[_Thing]]:
    """Yield things in portions; whoever has more than one makes a checkpoint after each."""
    remaining = iter(things)
    while portion := list(islice(remaining, PORTION)):
        yield portion


def json_list(things: Iterable[object]) -> str:
    """Write a list as JSON, of however many; one call for all would keep the interpreter lock."""
    return f"[{','.join(json.dumps(portion)[1:-1] for portion in portions(things))}]"
