# SPDX-License-Identifier: GPL-3.0-or-later
"""An export as its client sees it: a stream of bytes, then what it held."""

from typing import Any

from store.paths import StorePath
from storedaemon.client.connection import Exchange
from storedaemon.wire.native.messages import Chunk, Event


class Export:
    """Items that are being exported: iterate over it for the stream's pieces.

    The stream is whole only once the iteration has ended by itself.

    Attributes:
        paths: The items in order, once all is read.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.paths: list[StorePath] = []
        self._exchange = exchange

    def __aiter__(self) -> "Export":
        return self

    async def __anext__(self) -> bytes:
        while (message := await self._exchange.next()) is not None:
            if isinstance(message, Chunk):
                return message.data
            self.paths += listed_paths(message)
        self.paths += (await self._exchange.result())["paths"]
        raise StopAsyncIteration


def listed_paths(message: Event | Chunk) -> list[Any]:
    """Give the part of a list of paths that comes in an event; see `docs/protocol.md`."""
    if isinstance(message, Event) and message.event == "paths":
        return list(message.fields["paths"])
    return []
