# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance of the store as its client sees it: events while it goes on, then what came of it."""

from dataclasses import dataclass

from storedaemon.client.work import BuildWork


class Verification(BuildWork):
    """A verification or repair: iterate over it for its events."""

    async def errors(self) -> bool:
        """Wait for the end; tell whether something is wrong that was not mended."""
        return (await self._exchange.result())["errors"] is True


@dataclass(frozen=True, slots=True)
class Saved:
    """Files that share their contents with others now and did not before, and their bytes."""

    files: int
    size: int


class Optimisation(BuildWork):
    """A deduplication: iterate over it for its events."""

    async def saved(self) -> Saved:
        """Wait for the end; tell what it saved."""
        result = await self._exchange.result()
        return Saved(result["files"], result["size"])
