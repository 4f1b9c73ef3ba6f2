# SPDX-License-Identifier: GPL-3.0-or-later
"""Running build hooks: started when one is asked, kept while they may be asked again.

A hook that accepts a build belongs to it from then on; another is started for the
next request. Starting one takes the better part of a second, as Guix's is written in
Guile, so those that declined are kept for a while, for all clients alike.
Entry point: `Hooks`.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Self

import structlog
import trio

from builder.agents import Agent, AgentError, Program, open_agent
from builder.offload.protocol import Answer, AnswerReader
from reaper.monitor import ProcessMonitor
from store.tally import CacheStatistics, Tally

CHUNK = 65536

MAX_IDLE = 4
"""Hooks that are kept without anything to do: each is a Guile process of some 60 MB."""

ANSWER_SECONDS = 600.0
"""How long a hook may think about an answer; it tries one machine after the other by SSH."""

log = structlog.get_logger("builder")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class HookArguments:
    """What a hook is told when it starts; times in seconds, 0 for no limit.

    Attributes:
        system: The system of this machine.
        max_silent_time: How long the other machine's builders may be silent.
        print_build_trace: Whether the other machine shall print trace lines.
        timeout: How long they may take.
    """

    system: str
    max_silent_time: int
    print_build_trace: bool
    timeout: int

    def words(self) -> tuple[str, ...]:
        """Return the words of the command line."""
        trace = "1" if self.print_build_trace else "0"
        return ("offload", self.system, str(self.max_silent_time), trace, str(self.timeout))


class Hook:
    """One running hook; an async context manager that ends it."""

    def __init__(self, arguments: HookArguments, agent: Agent, stack: AsyncExitStack) -> None:
        self.arguments = arguments
        self.agent = agent
        self.idle_since = trio.current_time()
        self._stack = stack
        self._name = f"build hook `{agent.program.words}'"
        self._reader = AnswerReader(self._name)

    @classmethod
    async def start(
        cls, monitor: ProcessMonitor, program: Program, arguments: HookArguments
    ) -> "Hook":
        """Start a hook.

        Raises:
            AgentError: It cannot be started.
        """
        stack = AsyncExitStack()
        return cls(arguments, await stack.enter_async_context(open_agent(monitor, program)), stack)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the hook and its process group, whatever they do."""
        await self._stack.aclose()

    def rest(self) -> bytes:
        """Take out what it printed behind its answer so far."""
        return self._reader.rest()

    async def ask(self, request: bytes, tell: Tell) -> Answer:
        """Put a request and wait for the answer.

        Args:
            request: The line.
            tell: Called with each line that the hook prints before it answers.

        Raises:
            AgentError: It gives no answer, or one that makes no sense.
        """
        # If it has ended, what it had to say comes first, and then the end of its output.
        with suppress(trio.BrokenResourceError):
            await self.agent.requests.send_all(request)
        while True:
            said = self._reader.next()
            if isinstance(said, Answer):
                return said
            if said is None:
                await self._receive(tell)
            else:
                tell(said)

    async def _receive(self, tell: Tell) -> None:
        data = await self.agent.output.receive_some(CHUNK)
        if data:
            self._reader.feed(data)
            return
        if unfinished := self._reader.rest():
            tell(unfinished.decode("utf-8", "surrogateescape"))
        raise AgentError(f"{self._name} ended without an answer")


@dataclass(slots=True)
class Hooks:
    """All hooks that run without a build.

    Attributes:
        program: The file name of ``guix``; empty if there are to be no hooks.
        environment: Of the hooks.
        monitor: Reaps them.
        answer_seconds: How long one may take to answer.
    """

    program: str
    environment: Mapping[str, str]
    monitor: ProcessMonitor
    answer_seconds: float = ANSWER_SECONDS
    _idle: list[Hook] = field(default_factory=list)
    _missing_told: bool = False
    _tally: Tally = field(default_factory=Tally)

    def available(self) -> bool:
        """Tell whether there is a program to ask; that there is none is reported once."""
        if not self.program:
            return False
        if os.access(self.program, os.X_OK):
            return True
        if not self._missing_told:
            self._missing_told = True
            log.warning("no build hook", program=self.program)
        return False

    async def ask(self, arguments: HookArguments, request: bytes, tell: Tell) -> Hook | Answer:
        """Put a request to a hook; return the one that accepted it, or else the answer.

        Raises:
            AgentError: It gives no answer, or one that makes no sense.
        """
        hook = self._take(arguments)
        self._tally.looked_up(found=hook is not None)
        if hook is not None:
            try:
                return await self._put(hook, request, tell)
            except AgentError:
                # It may have been ended, or replaced on disk, while it had nothing to do.
                log.info("idle build hook lost", program=self.program)
        return await self._put(await self._start(arguments), request, tell)

    def statistics(self) -> CacheStatistics:
        """Return how often one was there already."""
        return self._tally.of_entries("build-hooks", len(self._idle), MAX_IDLE)

    async def release_idle(self, seconds: float) -> None:
        """End the hooks that had nothing to do for so long."""
        then = trio.current_time() - seconds
        for hook in [each for each in self._idle if each.idle_since <= then]:
            self._idle.remove(hook)
            await hook.aclose()

    async def aclose(self) -> None:
        """End all that have nothing to do."""
        await self.release_idle(0)

    async def _put(self, hook: Hook, request: bytes, tell: Tell) -> Hook | Answer:
        try:
            with trio.fail_after(self.answer_seconds):
                answer = await hook.ask(request, tell)
        except trio.TooSlowError as error:
            await hook.aclose()
            raise AgentError(
                f"build hook `{hook.agent.program.words}' gave no answer "
                f"within {self.answer_seconds:g} seconds"
            ) from error
        except BaseException:
            await hook.aclose()
            raise
        if answer is Answer.ACCEPT:
            return hook
        await self._give_back(hook)
        return answer

    async def _start(self, arguments: HookArguments) -> Hook:
        program = Program(self.program, arguments.words(), self.environment)
        return await Hook.start(self.monitor, program, arguments)

    def _take(self, arguments: HookArguments) -> Hook | None:
        hook = next((each for each in self._idle if each.arguments == arguments), None)
        if hook is not None:
            self._idle.remove(hook)
        return hook

    async def _give_back(self, hook: Hook) -> None:
        hook.idle_since = trio.current_time()
        self._idle.append(hook)
        if len(self._idle) > MAX_IDLE:
            self._tally.evictions += 1
            await self._idle.pop(0).aclose()
