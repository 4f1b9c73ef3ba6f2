# SPDX-License-Identifier: GPL-3.0-or-later
"""Lends tokens to builds, and has them back.

The books are here alone: a token is lent from when it was put into a build's fifo until
it was read back from there, or the build ended. So a builder can spoil its own jobs
but nobody's else.

While one build runs it has all tokens, and nothing happens. From two on, the fifos are
looked at ten times a second, and what one leaves unread is for the others. Where nothing
is unread but somebody may be waiting, the daemon waits at the fifos of those who have more,
and takes what the next job gives back; it is quicker there than make, as a rule, which
first looks what to start next. Entry point: `Jobserver`.
"""

import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from builder.jobserver.balance import Standing, balance, owing
from builder.jobserver.fifo import Fifo

INTERVAL = 0.1
REST = 1.0
"""Seconds for which a build is not offered again what it has left, if others want it."""

PATIENCE = 5.0
"""Seconds a build waits for the token that its first job stands for, before it starts without."""


@dataclass(slots=True, eq=False)
class _Build:
    fifo: Fifo
    lent: int = 0
    rests_until: float = 0.0
    seated: trio.Event = field(default_factory=trio.Event)

    def standing(self, now: float) -> Standing:
        unread = self.fifo.unread()
        if unread > self.lent:
            unread -= self.fifo.take(unread - self.lent)
        unread = min(unread, self.lent)
        return Standing(self.lent - unread, unread, now < self.rests_until)


@dataclass(frozen=True, slots=True)
class JobserverStatistics:
    """How the tokens stand.

    Attributes:
        tokens: How many jobs all builds together may run.
        builds: Those that run with a fifo; the first job of each is one of them.
        lent: What was put into their fifos and is not back.
        unread: What of it lies there still.
        free: What nobody has.
    """

    tokens: int
    builds: int
    lent: int
    unread: int
    free: int


class Jobserver:
    """A pool of tokens.

    Args:
        tokens: How many jobs all builds together may run.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._builds: list[_Build] = []
        self._starting: list[_Build] = []
        self._changed = trio.Event()

    def statistics(self) -> JobserverStatistics:
        """Return how the tokens stand."""
        lent = sum(build.lent for build in self._builds)
        unread = sum(min(build.lent, build.fifo.unread()) for build in self._builds)
        return JobserverStatistics(
            self._tokens, len(self._builds), lent, unread, max(0, self._free())
        )

    @asynccontextmanager
    async def serve(self, path: str, waiting: Callable[[int], None]) -> AsyncIterator[None]:
        """Have a fifo at `path` that holds tokens, while inside; the caller may move or unlink it.

        Args:
            path: Where nobody else may enter.
            waiting: Called before it waits, with the number of builds that have the tokens.
        """
        build = _Build(Fifo(path))
        try:
            await self._seat(build, waiting)
            yield
        finally:
            if build in self._starting:
                self._starting.remove(build)
            if build in self._builds:
                self._builds.remove(build)
            build.fifo.close()
            self._balance()

    async def run(self) -> None:
        """Keep the fifos filled until cancelled."""
        while True:
            if len(self._builds) < 2 and not self._starting:
                await self._changed.wait()
                self._changed = trio.Event()
            with trio.move_on_after(INTERVAL):
                await self._catch_one()
            self._balance()

    async def _seat(self, build: _Build, waiting: Callable[[int], None]) -> None:
        self._starting.append(build)
        self._changed.set()
        self._balance()
        if not build.seated.is_set():
            waiting(len(self._builds))
            with trio.move_on_after(PATIENCE):
                await build.seated.wait()
        if not build.seated.is_set():
            # Whoever has the tokens may keep them for hours; the next to come back are its own.
            self._starting.remove(build)
            self._admit(build)

    def _admit(self, build: _Build) -> None:
        self._builds.append(build)
        build.seated.set()

    def _free(self) -> int:
        return self._tokens - len(self._builds) - sum(build.lent for build in self._builds)

    def _balance(self) -> None:
        """Put tokens where they are wanted, and let builds start for which there are some."""
        self._spread()
        if not self._starting or self._free() <= 0:
            return
        while self._starting and self._free() > 0:
            self._admit(self._starting.pop(0))
        self._spread()

    def _spread(self) -> None:
        now = trio.current_time()
        standings = [build.standing(now) for build in self._builds]
        wanted = balance(self._free() - len(self._starting), standings)
        changes = [count - each.unread for count, each in zip(wanted, standings, strict=True)]
        for build, count, change in zip(self._builds, wanted, changes, strict=True):
            if change < 0:
                build.lent -= build.fifo.take(-change)
                build.rests_until = now if count else now + REST
        for build, change in zip(self._builds, changes, strict=True):
            # A builder may have been faster than we: then there is less to hand out.
            more = min(change, self._free() - len(self._starting))
            if more > 0:
                build.lent += build.fifo.put(more)

    async def _catch_one(self) -> None:
        """Wait until a build that has more than others gives a token back, and take it."""
        now = trio.current_time()
        standings = [build.standing(now) for build in self._builds]
        found = [self._builds[i] for i in owing(standings, starting=bool(self._starting))]
        if not found:
            await trio.sleep_forever()
        # A fifo that is closed meanwhile leaves the set by itself.
        with select.epoll() as ready:
            for build in found:
                ready.register(build.fifo.fd, select.EPOLLIN)
            await trio.lowlevel.wait_readable(ready.fileno())
            numbers = {fd for fd, _ in ready.poll(0)}
        for build in self._builds:
            if build.fifo.fd in numbers:
                build.lent -= min(build.lent, build.fifo.take(1))
