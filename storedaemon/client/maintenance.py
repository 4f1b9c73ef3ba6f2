# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance of the store as its client sees it: events while it goes on, then what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.events import BuildEvent
from storedaemon.client.connection import Exchange
from storedaemon.wire.native.events import UnknownEvent, parse_event
from storedaemon.wire.native.messages import Event


class _Work:
    """A request that tells of its course. Leaving the context in which it was made ends it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> "_Work":
        return self

    async def __anext__(self) -> BuildEvent | UnknownEvent:
        while (message := await self._exchange.next()) is not None:
            if isinstance(message, Event):
                return parse_event(message.event, message.fields)
        raise StopAsyncIteration

    async def _result(self) -> Mapping[str, Any]:
        return await self._exchange.result()


class Verification(_Work):
    """A verification or repair: iterate over it for its events."""

    async def errors(self) -> bool:
        """Wait for the end; tell whether something is wrong that was not mended."""
        return (await self._result())["errors"] is True


@dataclass(frozen=True, slots=True)
class Saved:
    """Files that share their contents with others now and did not before, and their bytes."""

    files: int
    size: int


class Optimisation(_Work):
    """A deduplication: iterate over it for its events."""

    async def saved(self) -> Saved:
        """Wait for the end; tell what it saved."""
        result = await self._result()
        return Saved(result["files"], result["size"])
