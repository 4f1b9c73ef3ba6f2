# SPDX-License-Identifier: GPL-3.0-or-later
"""The running daemon: its parts, each alive for as long as others need it.

Parts that others need start first and end last: the process monitor and the locker's
client, then the database and the temporary roots, then all else (`storedaemon.running`),
at last the sessions. So when a stop cancels the sessions, everything that cleaning up
after them needs is still there. Only sessions begin earlier than that: what is not basic
is imported and made while the first clients are served. Entry point: `run`.
"""

import gc
import socket
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import trio

from builder.options import Client
from locker.aio import AsyncChannel
from locker.client import Locker
from locker.messages import CODEC
from reaper.monitor import ProcessMonitor
from reaper.process import Process
from storedaemon.acceptor import Acceptor, Serve
from storedaemon.basics import Basics, Later, open_basics
from storedaemon.config import Config
from storedaemon.helpers import Helpers
from storedaemon.logs import Logger
from storedaemon.notify import Notifier
from storedaemon.session import Session
from storedaemon.sessions.guix import serve_guix
from storedaemon.signals import EarlySignals
from storedaemon.sockets import Dialect, Listener
from storedaemon.stopping import Stop, limit_stop, watch_signals

if TYPE_CHECKING:
    from storedaemon.services import Services

# Modules that nothing imports on the way to the first reply.
REST = ("storedaemon.running", "storedaemon.sessions.guix_work", "storedaemon.sessions.native")

# How long importing them may keep the event loop from going on, in seconds.
TURN_SECONDS = 0.0005

# A helper ends as soon as its channel closes, unless the kernel keeps it in a system call.
HELPER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon was given before its event loop began.

    Attributes:
        config: What its owner chose.
        listeners: Where it listens.
        helpers: Its helper processes.
        signals: What has come already.
        notifier: Tells the service manager.
        log: Reports.
        started: `time.perf_counter` when the process began to work.
    """

    config: Config
    listeners: tuple[Listener, ...]
    helpers: Helpers
    signals: EarlySignals
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
    services: "Later[Services]" = field(default_factory=Later)
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
            self.given.signals.hand_over(self.stop.request)
            await base.start(self.monitor.run)
            base.start_soon(limit_stop, self.stop, self.given.log)
            for name, process in processes:
                base.start_soon(self._watch_helper, name, process)
            await self._use_helpers()
            await self._end_helpers(processes)
            base.cancel_scope.cancel()

    async def _use_helpers(self) -> None:
        locker = Locker(AsyncChannel(self.given.helpers.locker.socket, CODEC))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.stop.guard, "locker", locker.run)
            await self.stop.guard("daemon", partial(self._serve, locker))
            self.helpers_may_end = True
            nursery.cancel_scope.cancel()
        self.given.helpers.close()

    async def _serve(self, locker: Locker) -> None:
        async with AsyncExitStack() as stack:
            opening = open_basics(self.given.config, locker, self.monitor, self.sessions, stack)
            basics = await self.stop.unless_asked(opening)
            if basics is None:
                return
            over = trio.Event()
            async with trio.open_nursery() as support:
                support.start_soon(self.stop.guard, "database", basics.database.run)
                support.start_soon(self.stop.guard, "temporary roots", basics.temp_roots.run)
                async with trio.open_nursery() as running:
                    running.start_soon(self._run_services, basics, over)
                    await self._serve_clients(basics)
                    over.set()
                support.cancel_scope.cancel()

    async def _run_services(self, basics: Basics, over: trio.Event) -> None:
        await trio.to_thread.run_sync(_import_rest)
        from storedaemon.running import run_services  # noqa: PLC0415 - see `_import_rest`

        given = self.given
        await run_services(basics, given.helpers, self.stop, given.log, self._complete, over)

    def _complete(self, services: "Services") -> None:
        self.services.give(services)
        self._tell_ready()

    async def _serve_clients(self, basics: Basics) -> None:
        acceptor = self._acceptor(basics)
        async with trio.open_nursery() as sessions:
            async with trio.open_nursery() as listening:
                for listener in self.given.listeners:
                    part = partial(acceptor.accept, listener, sessions)
                    listening.start_soon(self.stop.guard, f"listener {listener.address}", part)
                await self.stop.wait()
                self.given.notifier.stopping()
                listening.cancel_scope.cancel()
            for listener in self.given.listeners:
                listener.close()
            acceptor.hang_up()
            sessions.cancel_scope.cancel()

    def _acceptor(self, basics: Basics) -> Acceptor:
        dialects: dict[Dialect, Serve] = {
            Dialect.GUIX: partial(serve_guix, basics=basics, services=self.services),
            Dialect.NATIVE: self._serve_native,
        }
        return Acceptor(
            basics.peers,
            partial(self._open_session, basics),
            dialects,
            self.sessions,
            self.given.config.max_connections,
            self.given.log,
        )

    async def _serve_native(self, sock: socket.socket, session: Session) -> None:
        services = await self.services.get()
        from storedaemon.sessions.native import serve_native  # noqa: PLC0415 - see `_import_rest`

        await serve_native(sock, session, services)

    def _open_session(self, basics: Basics, client: Client, dialect: Dialect) -> Session:
        log = self.given.log.bind(session=client.session, dialect=dialect.value)
        basics.homes.welcome(client, log)
        return Session(
            client,
            dialect,
            log,
            basics.temp_roots.session(),
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


def _import_rest() -> None:
    """Import, in a thread, what takes a fifth of a second; meanwhile the loop goes on.

    What importing made stays for good, so the collector of cycles, which is off until then,
    need not look at it ever.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(TURN_SECONDS)
    try:
        for name in REST:
            import_module(name)
    finally:
        sys.setswitchinterval(interval)
        gc.freeze()
        gc.enable()
