# SPDX-License-Identifier: GPL-3.0-or-later
"""A build as its client sees it: events while it goes on, then what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.options import BuildMode
from builder.substitution.offers import Offer
from store.paths import StorePath
from storedaemon.client.work import BuildWork


@dataclass(frozen=True, slots=True)
class BuildWishes:
    """How a client wants something built; None leaves it to the daemon. Times in seconds."""

    mode: BuildMode = BuildMode.NORMAL
    keep_failed: bool = False
    keep_going: bool = False
    cores: int | None = None
    max_jobs: int | None = None
    timeout: int | None = None
    max_silent_time: int | None = None
    rounds: int | None = None
    substitutes: bool | None = None
    fallback: bool | None = None
    substitute_urls: str | None = None
    no_offload: bool = False
    attempts: int | None = None
    retry_delay: int | None = None
    retry_cores: int | None = None

    def as_map(self) -> dict[str, Any]:
        """Give the parameters of `build` that say this."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "mode"}
        said = {name.replace("_", "-"): v for name, v in values.items() if v is not None}
        return {"mode": self.mode.name.lower(), **said}


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a build would do.

    Attributes:
        builds: The derivations that would be built.
        downloads: The items that would be downloaded.
        impossible: What is known not to be had.
    """

    builds: tuple[StorePath, ...]
    downloads: tuple[Offer, ...]
    impossible: tuple[StorePath, ...]


class Build(BuildWork):
    """A build that was asked for.

    Iterate over it for its events; `outputs` waits for its end. Leaving the
    context in which it was made ends the client's interest in it.
    """

    async def outputs(self) -> Mapping[StorePath, Mapping[str, StorePath]]:
        """Wait for the end; give the outputs of each derivation asked for, by name.

        Raises:
            DaemonError: Something was not built. The reason is the gravest
                failure's, `status` the number that Guix's clients know it by.
        """
        result = await self._exchange.result()
        outputs: Mapping[StorePath, Mapping[str, StorePath]] = result["outputs"]
        return outputs
