# SPDX-License-Identifier: GPL-3.0-or-later
"""A request that tells of its course: iterate over it for its events."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar

from builder.events import BuildEvent
from storedaemon.client.connection import Exchange
from storedaemon.wire.native.events import UnknownEvent, parse_event
from storedaemon.wire.native.messages import Event

E = TypeVar("E")


class Work(ABC, Generic[E]):
    """A request that goes on; leaving the context in which it was made ends it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        while (message := await self._exchange.next()) is not None:
            if isinstance(message, Event):
                return self._parse(message.event, message.fields)
        raise StopAsyncIteration

    @staticmethod
    @abstractmethod
    def _parse(name: str, fields: Mapping[str, Any]) -> E: ...


class BuildWork(Work[BuildEvent | UnknownEvent]):
    """One whose events are those of builds."""

    @staticmethod
    def _parse(name: str, fields: Mapping[str, Any]) -> BuildEvent | UnknownEvent:
        return parse_event(name, fields)
