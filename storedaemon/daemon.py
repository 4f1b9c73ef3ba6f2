# SPDX-License-Identifier: GPL-3.0-or-later
"""The running daemon: its parts, each alive for as long as others need it.

Parts that others need start first and end last: the process monitor and the
clients of the helpers, then the database and the temporary roots, then the
scheduler, at last the sessions. So when a stop cancels the sessions, everything
that cleaning up after them needs is still there. Entry point: `run`.
"""

import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import trio

from builder.options import Client
from reaper.monitor import ProcessMonitor
from reaper.process import Process
from store.content_import import ContentImport
from storedaemon.acceptor import Acceptor, Serve
from storedaemon.config import Config
from storedaemon.discovery import run_discovery
from storedaemon.guix_program import find_guix
from storedaemon.helpers import Helpers
from storedaemon.logs import Logger
from storedaemon.notify import Notifier
from storedaemon.parts import HelperClients, assemble
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.sessions.guix import serve_guix
from storedaemon.sessions.native import serve_native
from storedaemon.sockets import Dialect, Listener
from storedaemon.stopping import Stop, limit_stop, watch_signals

# A helper ends as soon as its channel closes, unless the kernel keeps it in a system call.
HELPER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon was given before its event loop began.

    Attributes:
        config: What its owner chose.
        listeners: Where it listens.
        helpers: Its helper processes.
        notifier: Tells the service manager.
        log: Reports.
        started: `time.perf_counter` when the process began to work.
    """

    config: Config
    listeners: tuple[Listener, ...]
    helpers: Helpers
    notifier: Notifier
    log: Logger
    started: float


def run(surroundings: Surroundings) -> int:
    """Serve until a signal or a fault, and return the exit code."""
    daemon = _Daemon(surroundings)
    trio.run(daemon.run)
    return daemon.stop.exit_code


@dataclass(slots=True)
class _Daemon:
    given: Surroundings
    stop: Stop = field(init=False)
    monitor: ProcessMonitor = field(default_factory=ProcessMonitor)
    sessions: dict[int, Session] = field(default_factory=dict)
    helpers_may_end: bool = False

    def __post_init__(self) -> None:
        self.stop = Stop(self.given.log)

    async def run(self) -> None:
        """Run every part until the daemon is to stop, then end them in order."""
        self.monitor.become_subreaper()
        processes = [
            (name, self.monitor.register(helper.pid)) for name, helper in self.given.helpers.named()
        ]
        async with trio.open_nursery() as base:
            await base.start(watch_signals, self.stop)
            await base.start(self.monitor.run)
            base.start_soon(limit_stop, self.stop, self.given.log)
            for name, process in processes:
                base.start_soon(self._watch_helper, name, process)
            await self._use_helpers()
            await self._end_helpers(processes)
            base.cancel_scope.cancel()

    async def _use_helpers(self) -> None:
        clients = HelperClients.of(self.given.helpers, self.monitor)
        async with trio.open_nursery() as nursery:
            for name, part in clients.tasks():
                nursery.start_soon(self.stop.guard, name, part)
            await self.stop.guard("daemon", partial(self._serve, clients))
            self.helpers_may_end = True
            nursery.cancel_scope.cancel()
        clients.close()

    async def _serve(self, clients: HelperClients) -> None:
        async with AsyncExitStack() as stack:
            with trio.CancelScope() as starting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._cancel_at_stop, starting)
                    services = await assemble(
                        self.given.config, clients, self.monitor, self.sessions, stack
                    )
                    nursery.cancel_scope.cancel()
            if starting.cancelled_caught:
                return
            async with trio.open_nursery() as support:
                support.start_soon(self.stop.guard, "database", services.database.run)
                support.start_soon(self.stop.guard, "temporary roots", services.temp_roots.run)
                if self.given.config.discover:
                    support.start_soon(self._discover)
                support.start_soon(self.stop.guard, "content index", services.content_index.run)
                imports = ContentImport(services.layout, services.database, services.content_index)
                support.start_soon(self.stop.guard, "content import", imports.run)
                support.start_soon(self.stop.guard, "history", services.history.run)
                support.start_soon(self.stop.guard, "collector", services.collector.run)
                support.start_soon(self.stop.guard, "last uses", services.last_uses.run)
                await support.start(services.building.cleaner.run)
                async with trio.open_nursery() as building:
                    await building.start(services.building.run)
                    await building.start(services.detached.run)
                    await self._serve_clients(services)
                    building.cancel_scope.cancel()
                support.cancel_scope.cancel()

    async def _discover(self) -> None:
        guix = find_guix(self.given.config, os.environ)
        await run_discovery(self.monitor, guix, dict(os.environ), self.given.log)

    async def _cancel_at_stop(self, scope: trio.CancelScope) -> None:
        await self.stop.wait()
        scope.cancel()

    async def _serve_clients(self, services: Services) -> None:
        acceptor = self._acceptor(services)
        async with trio.open_nursery() as sessions:
            async with trio.open_nursery() as listening:
                for listener in self.given.listeners:
                    part = partial(acceptor.accept, listener, sessions)
                    listening.start_soon(self.stop.guard, f"listener {listener.address}", part)
                self._tell_ready()
                await self.stop.wait()
                self.given.notifier.stopping()
                listening.cancel_scope.cancel()
            for listener in self.given.listeners:
                listener.close()
            acceptor.hang_up()
            sessions.cancel_scope.cancel()

    def _acceptor(self, services: Services) -> Acceptor:
        config = self.given.config
        dialects: dict[Dialect, Serve] = {
            Dialect.GUIX: partial(serve_guix, services=services),
            Dialect.NATIVE: partial(serve_native, services=services),
        }
        return Acceptor(
            services.peers,
            partial(self._open_session, services),
            dialects,
            self.sessions,
            config.max_connections,
            self.given.log,
        )

    def _open_session(self, services: Services, client: Client, dialect: Dialect) -> Session:
        log = self.given.log.bind(session=client.session, dialect=dialect.value)
        services.homes.welcome(client, log)
        return Session(
            client,
            dialect,
            log,
            services.temp_roots.session(),
            log_rpcs=self.given.config.log_level == "debug",
        )

    def _tell_ready(self) -> None:
        self.given.log.info(
            "ready",
            listening=[f"{each.dialect}:{each.address}" for each in self.given.listeners],
            ms=round((time.perf_counter() - self.given.started) * 1000),
        )
        self.given.notifier.ready()

    async def _watch_helper(self, name: str, process: Process) -> None:
        """Stop the daemon when a helper ends: locks may be lost, and no other can be started."""
        status = await process.wait()
        if self.helpers_may_end and status.succeeded:
            return
        # Its channel may have closed first, and have stopped the daemon already.
        self.given.log.error("helper ended", helper=name, status=status.describe())
        if not self.helpers_may_end:
            self.stop.fail(f"helper {name} ended")

    async def _end_helpers(self, processes: list[tuple[str, Process]]) -> None:
        """Wait until the helpers, whose channels are closed, have ended."""
        with trio.move_on_after(HELPER_SECONDS):
            for _, process in processes:
                await process.wait()
        for name, process in processes:
            if process.kill():
                self.given.log.warning("helper killed", helper=name)
                await process.wait()
