# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's methods that follow builds, steer them and enter them."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from builder.events import BuildEvent
from storedaemon.client.builds import Build, BuildWishes
from storedaemon.client.calls import Calls
from storedaemon.client.entering import EnterWishes, Shell
from storedaemon.client.watching import Log, Sightings
from storedaemon.wire.native.events import UnknownEvent
from storedaemon.wire.native.records import Goal, parse_goal

_DEFAULT_WISHES = BuildWishes()
_SHELL = EnterWishes()


class Steering(Calls):
    """The part of a client that has to do with builds that go on, or have failed."""

    @contextlib.asynccontextmanager
    async def log(
        self,
        path: str,
        *,
        follow: bool = False,
        attempt: int | None = None,
        listen: Callable[[BuildEvent | UnknownEvent], None] | None = None,
    ) -> AsyncIterator[Log]:
        """Read the log of a derivation's last build, in pieces.

        Args:
            path: The derivation, or what it made.
            follow: Whether to go on until the build ends, if one is going on.
            attempt: Which attempt's log; None for the last one's.
            listen: Called when the build that is followed has to wait.
        """
        params = {"path": path, "follow": follow, "attempt": attempt}
        async with self._link.exchange("log", params) as exchange:
            yield Log(exchange, listen)

    async def goals(self) -> list[Goal]:
        """Ask what the daemon builds, and what waits."""
        lists, _ = await self._lists("ps", {}, ["goals"])
        return [parse_goal(goal) for goal in lists["goals"]]

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Sightings]:
        """Watch all that happens: everybody's builds for those trusted, one's own for others."""
        async with self._link.exchange("subscribe", {}) as exchange:
            yield Sightings(exchange)

    async def build_detached(
        self, targets: Sequence[str], wishes: BuildWishes = _DEFAULT_WISHES
    ) -> int:
        """Have derivations built without waiting; gives the number to attach to."""
        params = {"targets": list(targets), "detach": True, **wishes.as_map()}
        number: int = (await self._call("build", **params))["detached"]
        return number

    async def detach(self, drv: str) -> int:
        """Let a build that is going on survive its clients; gives the number to attach to."""
        number: int = (await self._call("detach", path=drv))["detached"]
        return number

    @contextlib.asynccontextmanager
    async def attach(self, which: str) -> AsyncIterator[Build]:
        """Follow a build to its end; leaving the context before does not end a detached one.

        Args:
            which: The number of a detached build, or a derivation that is being built.
        """
        async with self._link.exchange("attach", {"build": which}) as exchange:
            yield Build(exchange)

    async def detached(self) -> list[Mapping[str, Any]]:
        """Ask for one's detached builds; the keys are in `docs/protocol.md`."""
        lists, _ = await self._lists("detached", {}, ["builds"])
        return lists["builds"]

    async def end_detached(self, number: int) -> bool:
        """End a detached build, or forget its result; says whether there was one."""
        return (await self._call("end-detached", detached=number))["ended"] is True

    @contextlib.asynccontextmanager
    async def enter(self, drv: str, wishes: EnterWishes = _SHELL) -> AsyncIterator[Shell]:
        """Run a shell in the place of a builder; leaving the context before its end kills it."""
        async with self._link.exchange("enter", {"path": drv, **wishes.as_map()}) as exchange:
            yield Shell(exchange, self._call)

    async def end_shell(self, number: int) -> bool:
        """End a shell of `enter` by its number in `goals`; says whether there was one."""
        return (await self._call("end-shell", shell=number))["ended"] is True

    async def set_priority(self, drv: str, priority: int) -> bool:
        """Say how soon a build gets a slot among its user's; says whether there is one."""
        result = await self._call("set-priority", path=drv, priority=priority)
        return result["changed"] is True

    async def cancel_build(self, drv: str) -> bool:
        """End the build of a derivation for all who want it; says whether there was one."""
        return (await self._call("cancel-build", path=drv))["cancelled"] is True
