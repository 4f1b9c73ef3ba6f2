# SPDX-License-Identifier: GPL-3.0-or-later
"""Substitute programs that stay alive between requests.

Starting one takes a good part of a second, so whoever is done with one gives it
back. One that nobody needed for a while, that died, or that was left in the
middle of something is ended. Entry point: `Residents`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from builder.agents import Agent, AgentError, LineReader, Program, open_agent
from reaper.monitor import ProcessMonitor
from store.tally import CacheStatistics, Tally

IDLE_SECONDS = 60.0
"""How long a program waits for its next request."""

MAX_REPLY_LINE = 8192
"""Bytes of a line on the second pipe; a path has 4,096 at most."""


@dataclass(slots=True, eq=False)
class Resident:
    """A program that runs, and is either lent or idle.

    Attributes:
        agent: The program and its pipes.
        replies: Reads its second pipe, on which lines may have come already.
    """

    agent: Agent
    replies: LineReader
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def is_alive(self) -> bool:
        """Whether it may be used."""
        return self.agent.process.status is None and not self.scope.cancel_called


class Residents:
    """Starts programs, lends them, and keeps a few.

    Args:
        name: What they are called in statistics.
        monitor: Reaps them.
        keep: How many idle ones are kept.
    """

    def __init__(self, name: str, monitor: ProcessMonitor, keep: int) -> None:
        self._name = name
        self._tally = Tally()
        self._monitor = monitor
        self._keep = keep
        self._idle: list[Resident] = []
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep programs until cancelled, which ends them all."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    @asynccontextmanager
    async def lend(self, program: Program) -> AsyncIterator[Resident]:
        """Have a program in the same state as a fresh one; it is kept if the block ends well.

        Raises:
            AgentError: It cannot be started.
        """
        resident = self._take(program)
        self._tally.looked_up(found=resident is not None)
        if resident is None:
            resident = await self._start(program)
        try:
            yield resident
        except BaseException:
            resident.scope.cancel()
            raise
        self._give_back(resident)

    def statistics(self) -> CacheStatistics:
        """Return how often one was there already."""
        return self._tally.of_entries(self._name, len(self._idle), self._keep)

    def _take(self, program: Program) -> Resident | None:
        for resident in self._idle:
            if resident.is_alive and resident.agent.program == program:
                self._idle.remove(resident)
                resident.scope.deadline = float("inf")
                return resident
        return None

    def _give_back(self, resident: Resident) -> None:
        resident.scope.deadline = trio.current_time() + IDLE_SECONDS
        self._idle = [each for each in self._idle if each.is_alive]
        self._idle.append(resident)
        while len(self._idle) > self._keep:
            self._idle.pop(0).scope.cancel()
            self._tally.evictions += 1

    async def _start(self, program: Program) -> Resident:
        assert self._nursery is not None, "residents run before anyone asks"
        resident: Resident | Exception = await self._nursery.start(self._host, program)
        if isinstance(resident, Exception):
            raise resident
        return resident

    async def _host(
        self, program: Program, *, task_status: trio.TaskStatus[Resident | Exception]
    ) -> None:
        """Let a program live until its scope is cancelled."""
        try:
            async with open_agent(self._monitor, program) as agent:
                replies = LineReader(agent.replies, f"`{program.words}'", MAX_REPLY_LINE)
                resident = Resident(agent, replies)
                task_status.started(resident)
                with resident.scope:
                    await agent.process.wait()
                    # Its last words may still be read.
                    await trio.sleep_forever()
        except AgentError as error:
            # Whoever wants the program is told; the others' go on.
            task_status.started(error)
