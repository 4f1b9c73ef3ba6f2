# SPDX-License-Identifier: GPL-3.0-or-later
"""Making and running all that is not basic, for as long as there are sessions.

Parts that others need start first and end last: the clients of the helpers, then
what lies beside the database, then the scheduler. Entry point: `run_services`.
"""

import os
from collections.abc import Callable
from contextlib import AsyncExitStack

import trio

from store.content_import import ContentImport
from storedaemon.basics import Basics
from storedaemon.discovery import run_discovery
from storedaemon.guix_program import find_guix
from storedaemon.helpers import Helpers
from storedaemon.logs import Logger
from storedaemon.parts import HelperClients, assemble
from storedaemon.services import Services
from storedaemon.stopping import Stop

Give = Callable[[Services], None]


async def run_services(
    basics: Basics, helpers: Helpers, stop: Stop, log: Logger, give: Give, over: trio.Event
) -> None:
    """Run all parts until nobody needs them.

    Args:
        basics: What is there already.
        helpers: The helper processes, whose channels stay theirs to close.
        stop: Asked when a part fails.
        log: Reports.
        give: Called when all is there.
        over: Set when no session is left.

    Raises:
        StoreError: Something cannot be used.
    """
    clients = HelperClients.of(helpers, basics.monitor)
    async with trio.open_nursery() as nursery:
        for name, part in clients.tasks():
            nursery.start_soon(stop.guard, name, part)
        async with AsyncExitStack() as stack:
            services = await stop.unless_asked(assemble(basics, clients, stack))
            if services is not None:
                await _run(services, stop, log, give, over)
        nursery.cancel_scope.cancel()


async def _run(services: Services, stop: Stop, log: Logger, give: Give, over: trio.Event) -> None:
    async with trio.open_nursery() as support:
        if services.config.discover:
            support.start_soon(_discover, services, log)
        support.start_soon(stop.guard, "content index", services.content_index.run)
        imports = ContentImport(services.layout, services.database, services.content_index)
        support.start_soon(stop.guard, "content import", imports.run)
        support.start_soon(stop.guard, "history", services.history.run)
        support.start_soon(stop.guard, "collector", services.collector.run)
        support.start_soon(stop.guard, "last uses", services.last_uses.run)
        await support.start(services.building.cleaner.run)
        async with trio.open_nursery() as building:
            await building.start(services.building.run)
            await building.start(services.detached.run)
            give(services)
            await over.wait()
            building.cancel_scope.cancel()
        support.cancel_scope.cancel()


async def _discover(services: Services, log: Logger) -> None:
    guix = find_guix(services.config, os.environ)
    await run_discovery(services.monitor, guix, dict(os.environ), log)
