# SPDX-License-Identifier: GPL-3.0-or-later
"""What a daemon does, as those see it who watch: events of all builds, and logs that grow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from builder.events import BuildEvent
from storedaemon.client.connection import Exchange
from storedaemon.wire.native.events import UnknownEvent, parse_event
from storedaemon.wire.native.messages import Chunk, Event


class Log:
    """A build log that is being read: iterate over it for its pieces.

    Args:
        exchange: The request.
        listen: Called when the build that is followed has to wait for something.

    Attributes:
        ended: What the daemon said at the end: `size`, and if a build was followed,
            `outcome` and `message`.
    """

    def __init__(
        self, exchange: Exchange, listen: Callable[[BuildEvent | UnknownEvent], None] | None = None
    ) -> None:
        self._exchange = exchange
        self._listen = listen
        self.ended: Mapping[str, Any] = {}

    def __aiter__(self) -> "Log":
        return self

    async def __anext__(self) -> bytes:
        while (message := await self._exchange.next()) is not None:
            if isinstance(message, Chunk):
                return message.data
            if self._listen is not None:
                self._listen(parse_event(message.event, message.fields))
        self.ended = await self._exchange.result()
        raise StopAsyncIteration


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something that happened; `fields` are those of the protocol."""

    event: str
    fields: Mapping[str, Any]

    def as_build_event(self) -> BuildEvent | UnknownEvent:
        """Give the event as one of a build; one that is none stays as it came."""
        return parse_event(self.event, self.fields)


class Sightings:
    """All that happens in a daemon, as far as the client may see it: iterate over it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> "Sightings":
        return self

    async def __anext__(self) -> Sighting:
        while (message := await self._exchange.next()) is not None:
            if isinstance(message, Event):
                return Sighting(message.event, message.fields)
        await self._exchange.result()
        raise StopAsyncIteration
