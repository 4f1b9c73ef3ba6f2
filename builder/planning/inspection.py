# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at items that may be damaged, for one request for repairs.

As in the reference, a derivation whose outputs are sound is not built again, and its
inputs do not matter; but what its outputs refer to is looked at, and repaired with the
derivation that made it. Entry point: `Inspections`.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet

import trio

from builder.events import BuildEvent, Level, Message
from builder.inputs import References, closure_of
from store.derivations import Derivation
from store.errors import StoreError
from store.info import PathInfo
from store.paths import StorePath, is_derivation
from store.tally import CacheStatistics, Tally

_DERIVATIONS_IN_A_ROW = 32
"""Derivations read between two checkpoints: a few milliseconds of work."""


MOST_SOUND = 500_000
"""Items that a request remembers, some 200 bytes each; what goes is looked at again."""


class Registry(References, Protocol):
    """What is asked of the database."""

    def path_info(self, path: StorePath) -> PathInfo:
        """Return what is registered of a valid item."""


class Inspection:
    """What one request has found out about items.

    Args:
        database: What is registered.
        derivation: Returns the derivation of a valid item.
        is_intact: Compares an item with what is registered of it.
        tell: Takes what the client should know.
        tally: Counts for all inspections.
    """

    def __init__(
        self,
        database: Registry,
        derivation: Callable[[StorePath], Derivation],
        is_intact: Callable[[PathInfo], Awaitable[bool]],
        tell: Callable[[BuildEvent], object],
        tally: Tally,
    ) -> None:
        self._database = database
        self._derivation = derivation
        self._is_intact = is_intact
        self._tell = tell
        self._tally = tally
        self._sound: OrderedDict[StorePath, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sound)

    async def intact(self, path: StorePath) -> bool:
        """Tell whether a valid item has the content that was registered; look once if it has."""
        self._tally.looked_up(found=path in self._sound)
        if path in self._sound:
            return True
        if not await self._is_intact(self._database.path_info(path)):
            return False
        self._sound[path] = None
        if len(self._sound) > MOST_SOUND:
            self._sound.popitem(last=False)
            self._tally.evictions += 1
        return True

    async def damage_behind(
        self, drv: StorePath, own: Collection[StorePath], outputs: Iterable[StorePath]
    ) -> dict[StorePath, StorePath | None]:
        """Find what is damaged of what outputs refer to, and tell the client.

        Args:
            drv: A derivation.
            own: All its outputs.
            outputs: Those that are wanted, all of them valid.

        Returns:
            The damaged items, each with the derivation among the inputs of `drv`, however
            remote, that makes it; None for those that none of them makes.
        """
        closure = (await closure_of(self._database, outputs)).difference(own)
        damaged = [path for path in sorted(closure) if not await self.intact(path)]
        for path in damaged:
            text = f"found corrupted or missing path `{path}' in the output closure of `{drv}'"
            self._tell(Message(text, Level.ERROR))
        makers = await self._makers(drv) if damaged else {}
        return {path: makers.get(path) for path in damaged}

    async def _makers(self, drv: StorePath) -> dict[StorePath, StorePath]:
        makers: dict[StorePath, StorePath] = {}
        inputs = await closure_of(self._database, [drv])
        for number, path in enumerate(sorted(filter(is_derivation, inputs)), 1):
            with suppress(StoreError, OSError):  # one that cannot be read makes nothing
                makers |= dict.fromkeys(self._derivation(path).output_paths, path)
            if number % _DERIVATIONS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        return makers


class Inspections:
    """Makes an `Inspection` for each request for repairs.

    Args:
        database: What is registered.
        derivation: Returns the derivation of a valid item.
        is_intact: Compares an item with what is registered of it.
    """

    def __init__(
        self,
        database: Registry,
        derivation: Callable[[StorePath], Derivation],
        is_intact: Callable[[PathInfo], Awaitable[bool]],
    ) -> None:
        self._parts = database, derivation, is_intact
        self._tally = Tally()
        self._under_way = WeakSet[Inspection]()

    def begin(self, tell: Callable[[BuildEvent], object]) -> Inspection:
        """Make one, which tells what it finds."""
        inspection = Inspection(*self._parts, tell, self._tally)
        self._under_way.add(inspection)
        return inspection

    def statistics(self) -> CacheStatistics:
        """Return how often requests had looked already; the limit is that of each of them."""
        largest = max(map(len, self._under_way), default=0)
        return self._tally.of_entries("inspected-items", largest, MOST_SOUND)
