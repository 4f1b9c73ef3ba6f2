# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests whose answers are values or lists, which may come in parts. Entry point: `Calls`."""

from collections.abc import Iterable, Mapping
from typing import Any

from store.paths import StorePath
from storedaemon.client.connection import Link
from storedaemon.wire.native.messages import Event


class Calls:
    """What calls methods over a connection.

    Args:
        link: The connection.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def _call(self, method: str, **params: Any) -> Mapping[str, Any]:
        async with self._link.exchange(method, params) as exchange:
            return await exchange.result()

    async def _lists(
        self, method: str, params: Mapping[str, Any], names: Iterable[str]
    ) -> tuple[dict[str, list[Any]], Mapping[str, Any]]:
        """Call a method whose result has lists that may begin in events."""
        lists: dict[str, list[Any]] = {name: [] for name in names}
        async with self._link.exchange(method, params) as exchange:
            while (message := await exchange.next()) is not None:
                if isinstance(message, Event) and message.event in lists:
                    lists[message.event] += message.fields[message.event]
            result = await exchange.result()
        for name in lists:
            lists[name] += result[name]
        return lists, result

    async def _paths(self, method: str, **params: Any) -> list[StorePath]:
        paths: list[StorePath] = []
        async with self._link.exchange(method, params) as exchange:
            while (message := await exchange.next()) is not None:
                if isinstance(message, Event) and message.event == "paths":
                    paths += message.fields["paths"]
            paths += (await exchange.result())["paths"]
        return paths
