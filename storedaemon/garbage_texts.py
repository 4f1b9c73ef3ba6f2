# SPDX-License-Identifier: GPL-3.0-or-later
"""What Guix clients are shown of a collection, in the reference's words; pure.

Entry point: `texts`.
"""

from collections.abc import Iterator

from builder.events import Level, Message
from store.collection import Wish
from store.collection.events import (
    Emptied,
    Entered,
    Event,
    LimitReached,
    Remark,
    Removed,
    Savings,
    Stage,
)
from store.units import show_bytes

_STAGES = {
    Stage.WAITING: "waiting for the big garbage collector lock...",
    Stage.ROOTS: "finding garbage collector roots...",
    Stage.MARKING: "determining live/dead paths...",
    Stage.DELETING: "deleting garbage...",
    Stage.LINKS: "deleting unused links...",
}


def texts(event: Event, wish: Wish, store: str) -> Iterator[Message]:
    """Give the messages by which a client learns of an event, in order.

    Args:
        event: What happened.
        wish: What the collection is for.
        store: The store directory.
    """
    match event:
        case Entered(Stage.TRASH):
            yield Message(f"deleting `{store}/trash'")
        case Entered(stage):
            yield Message(_STAGES[stage], Level.ERROR)
        case Remark(text, important):
            yield Message(text, Level.ERROR if important else Level.INFO)
        case Removed(paths, freed, _):
            for path, before in zip(paths, freed, strict=True):
                yield Message(f"[{_progress(before, wish.limit)}] deleting '{path}'")
        case LimitReached(limit):
            yield Message(f"deleted or invalidated more than {limit} bytes; stopping")
        case Savings(saved):
            yield Message(f"note: currently hard linking saves {show_bytes(saved)}")
        case Emptied():
            return


def _progress(freed: int, limit: int | None) -> str:
    if limit is None:
        return show_bytes(freed)
    return f"{min(100, 100 * freed // max(1, limit))}%"
