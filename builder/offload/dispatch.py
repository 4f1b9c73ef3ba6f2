# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether and when a derivation is offered to the build hook.

Derivations that need the same kind of machine stand in one line, in which clients take
turns: only the head is offered, so that a thousand builds that wait for one machine
cost one question now and then, and the line moves as fast as the hook accepts.
Entry point: `Dispatcher`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from builder.admission.slots import Slot, Slots
from builder.agents import AgentError
from builder.errors import BuildError
from builder.events import Level, Message
from builder.offload.hooks import Hook, HookArguments, Hooks
from builder.offload.protocol import Answer, Requirements, request_line, requirements_of
from builder.options import BuildMode
from builder.platforms import Machine
from builder.scheduling.jobs import Job, JobState

POSTPONED_SECONDS = 5.0
"""When a hook that said `postpone' is asked again at the latest, as with the C++ daemon."""

MAX_ASKED = 4
"""Hooks that think about an answer at the same time, each for another kind of machine."""


def must_be_local(job: Job, machine: Machine) -> bool:
    """Tell whether a job is for this machine alone, even where it is to build nothing else."""
    derivation = job.derivation
    preferred = derivation.env.get("preferLocalBuild") == "1"
    return job.key.mode is not BuildMode.NORMAL or (
        preferred and machine.can_build(derivation.system)
    )


@dataclass(slots=True)
class _Line:
    """Those that wait for one kind of machine; `users` counts them."""

    turns: Slots = field(default_factory=lambda: Slots(1))
    users: int = 0


class Turn:
    """A job's place at the head of its line; it may be left and taken again."""

    def __init__(self, job: Job, line: _Line, ended: trio.lowlevel.ParkingLot) -> None:
        self._job = job
        self._line = line
        self._ended = ended
        self._slot: Slot | None = None

    async def take(self) -> None:
        """Wait for the head of the line."""
        turns = self._line.turns
        self._slot = turns.acquire_nowait(self._job.claim)
        if self._slot is None:
            self._wait("others are offered before")
            self._slot = await turns.acquire(self._job.claim)

    def leave(self) -> None:
        """Let the next one be offered."""
        if self._slot is not None:
            slot, self._slot = self._slot, None
            self._line.turns.release(slot)

    async def postponed(self) -> None:
        """Wait until it makes sense to ask again: a build ended, or some seconds went by."""
        self._wait("all are busy")
        with trio.move_on_after(POSTPONED_SECONDS):
            await self._ended.park()

    def _wait(self, reason: str) -> None:
        self._job.wait(JobState.WAITING_FOR_MACHINE, "build machine", reason)


class Dispatcher:
    """Offers jobs to the build hook.

    Args:
        hooks: Those that run.
        machine: This machine.
    """

    def __init__(self, hooks: Hooks, machine: Machine) -> None:
        self._hooks = hooks
        self._machine = machine
        self._lines: dict[Requirements, _Line] = {}
        self._asking = trio.CapacityLimiter(MAX_ASKED)
        self._ended = trio.lowlevel.ParkingLot()

    def concerns(self, job: Job) -> bool:
        """Tell whether the hook is to be asked about a job."""
        return (
            job.options.offload
            and not must_be_local(job, self._machine)
            and self._hooks.available()
            and requirements_of(job.derivation) is not None
        )

    @asynccontextmanager
    async def turn(self, job: Job) -> AsyncIterator[Turn]:
        """Stand in line; inside, the job is at the head of it until it leaves."""
        needs = _requirements(job)
        line = self._lines.setdefault(needs, _Line())
        line.users += 1
        turn = Turn(job, line, self._ended)
        try:
            await turn.take()
            yield turn
        finally:
            turn.leave()
            line.users -= 1
            if not line.users:
                del self._lines[needs]

    async def offer(self, job: Job, *, here: bool) -> Hook | Answer:
        """Ask the hook about a job; return it if it accepts, or else its answer.

        Args:
            job: Its outputs are locked.
            here: Whether it could be built on this machine right now.

        Raises:
            BuildError: The hook fails.
        """
        job.proceed(JobState.PREPARING)
        options = job.options
        arguments = HookArguments(
            self._machine.system,
            options.max_silent_time,
            options.print_build_trace,
            options.timeout,
        )
        request = request_line(job.path, _requirements(job), here=here)

        def tell(line: str) -> None:
            job.audience.tell(Message(line, Level.ERROR))

        async with self._asking:
            try:
                return await self._hooks.ask(arguments, request, tell)
            except AgentError as error:
                raise BuildError(f"cannot offer `{job.path}' for building: {error}") from error

    def build_ended(self) -> None:
        """Have those asked again who were told to wait."""
        self._ended.unpark_all()


def _requirements(job: Job) -> Requirements:
    needs = requirements_of(job.derivation)
    assert needs is not None, "only what a request can say is offered"
    return needs
