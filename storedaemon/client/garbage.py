# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage collection as its client sees it: what goes while it goes on, then what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.events import BuildEvent
from storedaemon.client.work import Work
from storedaemon.wire.native.events import UnknownEvent, parse_event


@dataclass(frozen=True, slots=True)
class GarbageWishes:
    """Which garbage is to go; by default, all of it.

    Attributes:
        paths: These items, and what refers to them, and nothing else.
        limit: Stop when more than so many bytes are freed.
        free: Stop when so many bytes are free on the store's file system.
        unused_for: Only what nothing has used for so many seconds.
        dry_run: Only tell what would go.
    """

    paths: Sequence[str] | None = None
    limit: int | None = None
    free: int | None = None
    unused_for: int | None = None
    dry_run: bool = False

    def as_map(self) -> dict[str, Any]:
        """Give the parameters of `collect-garbage` that say this."""
        values = {name.replace("_", "-"): getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Stage:
    """The collection is about to do something; `total` things, where that is known."""

    name: str
    total: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """Items that went, or would go; `freed` bytes in all by then, as far as is known."""

    paths: tuple[str, ...]
    freed: int


@dataclass(frozen=True, slots=True)
class Emptied:
    """So many things of those that went are gone from the disk, and so many bytes with them."""

    done: int
    freed: int


GarbageEvent = Stage | Deleted | Emptied | BuildEvent | UnknownEvent


@dataclass(frozen=True, slots=True)
class Collected:
    """How many items are gone, the bytes freed, and what sharing files saves now (if known)."""

    deleted: int
    freed: int
    saved: int | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an item is alive.

    Attributes:
        kind: What keeps it: ``link``, ``process``, ``session`` or ``daemon``.
        link: The link's name; empty where it is none.
        chain: From the item that is kept to the one in question, each referring to the next;
            the middle of a very long one is left out.
    """

    kind: str
    link: str
    chain: tuple[str, ...]


class Collection(Work[GarbageEvent]):
    """A collection: iterate over it for its events. Leaving its context ends it."""

    async def collected(self) -> Collected:
        """Wait for the end; tell what came of it."""
        result = await self._exchange.result()
        return Collected(result["deleted"], result["freed"], result["saved"])

    @staticmethod
    def _parse(name: str, fields: Mapping[str, Any]) -> GarbageEvent:
        match name:
            case "stage":
                return Stage(str(fields["stage"]), int(fields["total"]))
            case "deleted":
                return Deleted(tuple(map(str, fields["paths"])), int(fields["freed"]))
            case "emptied":
                return Emptied(int(fields["done"]), int(fields["freed"]))
            case _:
                return parse_event(name, fields)


def parse_reason(fields: Mapping[str, Any]) -> Reason:
    """Read a reason as the daemon sends it."""
    return Reason(str(fields["kind"]), fields["link"] or "", tuple(map(str, fields["chain"])))
