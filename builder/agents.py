# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that the daemon starts as itself and talks to over pipes.

Guix's helpers (``guix substitute``, ``guix offload``, ``guix authenticate`` and
others) all start alike: requests come in on standard input, standard output and
error are one pipe, and a second pipe is file descriptor 4, where some answer and
others put a builder's output. Entry points: `open_agent`, and `LineReader`.
"""

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from builder.memory.score import expose
from reaper.monitor import ProcessMonitor
from reaper.process import Process
from store.errors import StoreError

REPLY_DESCRIPTOR = 4
"""Where helpers expect their second pipe; the number is part of their protocols."""

MAX_LINE = 1024 * 1024
"""Octets of one line: the longest that is sent names all references of a store item."""

_CHUNK = 65536
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class AgentError(StoreError):
    """A helper program could not be started, ended too early, or said what makes no sense."""

    default_reason = "agent"


@dataclass(frozen=True, slots=True)
class Program:
    """What to start.

    Attributes:
        path: An absolute file name.
        arguments: Those after the name of the program.
        environment: The whole environment.
    """

    path: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The command as people would type it."""
        return " ".join((self.path, *self.arguments))


@dataclass(frozen=True, slots=True, eq=False)
class Agent:
    """A running helper program.

    Attributes:
        program: What was started.
        process: Its process, the leader of a session and a process group of its own.
        requests: Its standard input.
        output: Its standard output and error.
        replies: Its file descriptor 4.
    """

    program: Program
    process: Process
    requests: trio.lowlevel.FdStream
    output: trio.lowlevel.FdStream
    replies: trio.lowlevel.FdStream


@asynccontextmanager
async def open_agent(monitor: ProcessMonitor, program: Program) -> AsyncIterator[Agent]:
    """Start a program; when the block ends, it and its process group are killed and reaped.

    Raises:
        AgentError: It cannot be started.
    """
    agent = _start(monitor, program)
    try:
        yield agent
    finally:
        with trio.CancelScope(shield=True):
            _kill_group(agent.process)
            await agent.process.wait()
            for stream in (agent.requests, agent.output, agent.replies):
                await trio.aclose_forcefully(stream)


def _start(monitor: ProcessMonitor, program: Program) -> Agent:
    inner_in, requests = os.pipe2(os.O_CLOEXEC)
    output, inner_out = os.pipe2(os.O_CLOEXEC)
    replies, inner_replies = os.pipe2(os.O_CLOEXEC)
    try:
        process = _spawn(monitor, program, (inner_in, inner_out, inner_replies))
    except BaseException as error:
        for fd in (requests, output, replies):
            os.close(fd)
        if isinstance(error, OSError | ValueError):
            raise AgentError(f"cannot start `{program.words}': {error}") from error
        raise
    finally:
        for fd in (inner_in, inner_out, inner_replies):
            os.close(fd)
    streams = map(trio.lowlevel.FdStream, (requests, output, replies))
    return Agent(program, process, *streams)


def _spawn(monitor: ProcessMonitor, program: Program, ends: tuple[int, int, int]) -> Process:
    given, output, replies = ends
    actions = [
        (os.POSIX_SPAWN_DUP2, fd, number)
        for fd, number in ((given, 0), (output, 1), (output, 2), (replies, REPLY_DESCRIPTOR))
    ]
    with monitor.expecting():
        pid = os.posix_spawn(
            program.path,
            (program.path, *program.arguments),
            dict(program.environment),
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_IGNORED_BY_PYTHON,
        )
        # The monitor reaps in this thread, so the pid is still the child's own.
        expose(pid)
        return monitor.register(pid, os.pidfd_open(pid))


def _kill_group(leader: Process) -> None:
    if leader.status is None:
        os.killpg(leader.pid, signal.SIGKILL)


class LineReader:
    """Reads lines and exact numbers of octets from a stream.

    Args:
        stream: What is read.
        name: How errors name the other side.
        limit: The octets of the longest line accepted.
    """

    def __init__(self, stream: trio.abc.ReceiveStream, name: str, limit: int = MAX_LINE) -> None:
        self._stream = stream
        self._name = name
        self._limit = limit
        self._data = bytearray()
        self._searched = 0

    async def line(self) -> str:
        """Return the next line without its newline.

        Raises:
            AgentError: The other side ended, or the line is too long or no UTF-8.
        """
        while (end := self._data.find(b"\n", self._searched)) < 0:
            self._searched = len(self._data)
            if self._searched > self._limit:
                raise AgentError(f"{self._name} sent a line of over {self._limit} octets")
            await self._more()
        data = self._take(end + 1)
        try:
            return data[:-1].decode()
        except UnicodeDecodeError as error:
            raise AgentError(f"{self._name} sent a line that is not UTF-8") from error

    async def exactly(self, count: int) -> bytes:
        """Return so many octets.

        Raises:
            AgentError: The other side ended before.
        """
        while len(self._data) < count:
            await self._more()
        return self._take(count)

    def _take(self, count: int) -> bytes:
        data = bytes(self._data[:count])
        del self._data[:count]
        self._searched = 0
        return data

    async def _more(self) -> None:
        data = await self._stream.receive_some(_CHUNK)
        if not data:
            raise AgentError(f"{self._name} ended unexpectedly")
        self._data += data
