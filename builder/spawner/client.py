# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's side of the spawner.

Entry points: `start_spawner` before the daemon has threads, `Spawner.run` as a task of its
nursery, then `Spawner.spawn`.
"""

import os
import socket
from collections import deque
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import trio

from builder.container import Container
from builder.operations import Operation
from builder.spawner import DOUBLED
from builder.spawner.messages import (
    CODEC,
    STATUS_CODEC,
    Joined,
    SetupFailure,
    Spawned,
    SpawnRefused,
    SpawnRequest,
)
from builder.spawner.script import pack, translate
from locker.aio import AsyncChannel
from locker.errors import HelperError
from locker.start import StartedHelper, start_helper
from reaper.monitor import ProcessMonitor
from reaper.process import Process

_PATIENCE = 2.0  # seconds for a process whose channel is closed to end
_STATUS_SIZE = 4096  # PIPE_BUF: a failure is written at once


class SpawnError(Exception):
    """A container was not started.

    Args:
        message: A sentence that names what was wrong, without a final full stop.
        reason: A word for programs.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class SpawnerGoneError(SpawnError):
    """The spawner has died. No other can be started, since this process has threads by now."""

    def __init__(self) -> None:
        super().__init__(
            "the spawner is gone; the daemon must be restarted to build again", "spawner-gone"
        )


class SetupError(SpawnError):
    """A container could not be set up, or its program not be executed.

    Attributes:
        step: What failed: ``operation``, ``program``, ``execute``, ``clone``, …
        errno: The error number, 0 where the fault is none of the kernel's; ENOEXEC in
            ``execute`` means a program for another machine.
        text: What was wrong, without the step.
        operation: The operation that failed, None where it was another step.
        pid: The process that was to become the program, None if there never was one.
    """

    def __init__(
        self, step: str, errno: int, text: str, operation: Operation | None = None
    ) -> None:
        message = f"while setting up the child process: in phase {step}: {text}"
        super().__init__(message, "container-setup")
        self.step = step
        self.errno = errno
        self.text = text
        self.operation = operation
        self.pid: int | None = None

    @property
    def is_execution(self) -> bool:
        """Whether all was set up but for the program, which could not be executed."""
        return self.step in ("program", "execute")


def start_spawner(*, doubled: bool = False) -> StartedHelper:
    """Start the process; must come before this process's first thread.

    Args:
        doubled: Have it become two processes when the first container has been made.

    Raises:
        OSError: It cannot be made.
    """
    return start_helper("builder.spawner", *((DOUBLED,) if doubled else ()))


class _Pending:
    """A request without a reply; holds the monitor's expectation of a child until it comes."""

    def __init__(self, container: Container, expectation: AbstractContextManager[None]) -> None:
        self.container = container
        self.replied = trio.Event()
        self.process: Process | None = None
        self.error: SpawnError | None = None
        self.abandoned = False
        self._expectation = expectation
        expectation.__enter__()  # until `settle`, which other tasks call

    def settle(self, process: Process | None = None, error: SpawnError | None = None) -> None:
        """Record the reply."""
        self.process, self.error = process, error
        self._expectation.__exit__(None, None, None)
        self.replied.set()
        if self.abandoned and process is not None:
            process.kill()


class Setup:
    """The time from the making of a process to the exec of its program; to be awaited.

    Awaiting returns once the program has been executed, or the process has ended without
    saying why. It raises `SetupError` where the process could not become the builder; the
    process then ends by itself. Cancelled, it kills the process. It may be awaited once.
    """

    def __init__(self, container: Container, process: Process, reader: int) -> None:
        self._container = container
        self._process = process
        self._reader = reader

    def __await__(self) -> Generator[Any, Any, None]:
        return self._finish().__await__()

    async def _finish(self) -> None:
        try:
            data = await _read(self._reader)
        except BaseException:
            self._process.kill()
            raise
        finally:
            self.close()
        if data:
            raise _setup_error(self._container, STATUS_CODEC.decode(data))

    def close(self) -> None:
        """Stop caring; a process that is not yet the builder then ends by itself."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


async def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, _STATUS_SIZE)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(fd)


def _setup_error(container: Container, failure: SetupFailure) -> SetupError:
    text, operation = failure.text, None
    if failure.operation is not None:
        operation = container.operations[failure.operation]
        text = f"{operation.describe()}: {text}"
    elif failure.step in ("program", "execute") and failure.errno:
        program = container.command.program.decode(errors="backslashreplace")
        text = f"executing `{program}': {text}"
    elif failure.step == "directory":
        text = f"changing into `{container.command.directory}': {text}"
    return SetupError(failure.step, failure.errno, text, operation)


class SpawnedProcess:
    """A container's first process.

    Attributes:
        process: It, to wait for or to kill; killing it kills all in its PID namespace.
        setup: To be awaited once; see `Setup`.
    """

    __slots__ = ("process", "setup")

    def __init__(self, process: Process, setup: Setup) -> None:
        self.process = process
        self.setup = setup


@dataclass(frozen=True, slots=True)
class SpawnerStatistics:
    """What the daemon's side knows: containers asked for in all, and those without a reply."""

    requested: int
    pending: int


class _Desk:
    """One process of the spawner: its channel, and what it has been asked and not answered.

    `process` is None where somebody else started it, who closes its channel, too.
    """

    __slots__ = ("channel", "pending", "process")

    def __init__(self, channel: AsyncChannel, process: Process | None = None) -> None:
        self.channel = channel
        self.process = process
        self.pending: dict[int, _Pending] = {}


class Spawner:
    """Has containers started; any number at once.

    Args:
        channel: A channel to the spawner with `messages.CODEC`; it remains the caller's.
        monitor: Where the processes are registered.
    """

    def __init__(self, channel: AsyncChannel, monitor: ProcessMonitor) -> None:
        self._monitor = monitor
        self._desks = deque([_Desk(channel)])
        self._next_number = 0
        self._gone = False

    @classmethod
    def from_helper(cls, helper: StartedHelper, monitor: ProcessMonitor) -> "Spawner":
        """Make one for a process that `start_spawner` started."""
        return cls(AsyncChannel(helper.socket, CODEC), monitor)

    def statistics(self) -> SpawnerStatistics:
        """Give counts for status displays."""
        return SpawnerStatistics(self._next_number, sum(len(desk.pending) for desk in self._desks))

    def close(self) -> None:
        """Close the channels, which ends the spawner and `run`."""
        for desk in self._desks:
            desk.channel.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take replies until the spawner, or a part of it, is gone; then every spawn fails."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                await self._serve(self._desks[0], nursery)
        finally:
            self._gone = True
            for desk in self._desks:
                for pending in desk.pending.values():
                    pending.settle(error=SpawnerGoneError())
                desk.pending.clear()
            await self._end_joined()

    async def _serve(self, desk: _Desk, nursery: trio.Nursery) -> None:
        try:
            while True:
                reply, fds = await desk.channel.receive()
                match reply:
                    case Spawned(number, pid):
                        desk.pending.pop(number).settle(self._monitor.register(pid, fds[0]))
                    case SpawnRefused(number, failure):
                        pending = desk.pending.pop(number)
                        pending.settle(error=_setup_error(pending.container, failure))
                    case Joined(pid):
                        nursery.start_soon(self._serve, self._join(pid, *fds), nursery)
        except HelperError:
            # The channel has closed the descriptors; whoever waits is told when all are gone.
            nursery.cancel_scope.cancel()

    def _join(self, pid: int, pidfd: int, fd: int) -> _Desk:
        channel = AsyncChannel(socket.socket(fileno=fd), CODEC)
        desk = _Desk(channel, self._monitor.register(pid, pidfd))
        self._desks.append(desk)
        return desk

    async def _end_joined(self) -> None:
        """End the processes that joined, and have the monitor reap them, if it still does."""
        joined = [(desk.channel, desk.process) for desk in self._desks if desk.process is not None]
        for channel, _ in joined:
            channel.close()
        with trio.move_on_after(_PATIENCE, shield=True):
            for _, process in joined:
                await process.wait()

    async def spawn(
        self,
        container: Container,
        *,
        stdout_fd: int,
        stdin_fd: int | None = None,
        more_fd: int | None = None,
    ) -> SpawnedProcess:
        """Have a container started.

        Args:
            container: What to start.
            stdout_fd: What becomes its standard output and error; remains the caller's.
            stdin_fd: What becomes its standard input, ``/dev/null`` if None. For a container
                with a terminal, a socket through which the terminal's master comes with one
                octet, before `setup` ends; nothing becomes of `stdout_fd` then.
            more_fd: Where the container awaits its network, one end of a pair of sockets, the
                gate: an octet comes once its namespaces exist, and one is to be sent when the
                network is there. With an `UplinkIdentity`, what the program gets as
                descriptor 3. It remains the caller's.

        Returns:
            The process; await its `setup` next. A process whose caller is cancelled here is
            killed and reaped.

        Raises:
            SetupError: The container could not be set up so far.
            SpawnerGoneError: There is no spawner any more.
        """
        # What goes into it at once, if anything, fits: the writer never has to wait.
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                fds = [fd for fd in (stdin_fd, more_fd) if fd is not None]
                pending = await self._request(
                    container, (stdout_fd, writer, *fds), has_stdin=stdin_fd is not None
                )
            finally:
                os.close(writer)
            process = await self._reply(pending)
        except BaseException:
            os.close(reader)
            raise
        return SpawnedProcess(process, Setup(container, process, reader))

    async def _request(
        self, container: Container, fds: tuple[int, ...], *, has_stdin: bool
    ) -> _Pending:
        if self._gone:
            raise SpawnerGoneError
        number, self._next_number = self._next_number, self._next_number + 1
        desk = self._choose_desk()
        pending = desk.pending[number] = _Pending(container, self._monitor.expecting())
        request = SpawnRequest(number, pack(translate(container)), has_stdin)
        try:
            await desk.channel.send(request, fds)
        except BaseException as error:
            desk.pending.pop(number, None)
            pending.settle()
            if isinstance(error, HelperError):
                raise SpawnerGoneError from error
            raise
        return pending

    def _choose_desk(self) -> _Desk:
        """Take the one with the least to do, and of equals that which had the longest rest.

        It has made namespaces in advance by now.
        """
        desks = self._desks
        if len(desks) > 1 and len(desks[0].pending) > len(desks[1].pending):
            return desks[1]
        desks.rotate(-1)
        return desks[-1]

    async def _reply(self, pending: _Pending) -> Process:
        try:
            await pending.replied.wait()
        except trio.Cancelled:
            pending.abandoned = True
            if pending.process is not None:
                pending.process.kill()
            raise
        if pending.error is not None:
            raise pending.error
        assert pending.process is not None
        return pending.process
