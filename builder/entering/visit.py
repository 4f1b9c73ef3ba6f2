# SPDX-License-Identifier: GPL-3.0-or-later
"""One shell in the place of a builder: what its client wants, says and hears, and its end."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from builder.container import Terminal
from builder.entering.streams import Streams
from builder.events import BuildEvent
from builder.options import BuildOptions, Client
from builder.scheduling.audience import EventQueue
from builder.scheduling.jobs import AnyJob, Job
from reaper.process import ExitStatus
from store.paths import StorePath


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants.

    Attributes:
        drv: Whose container.
        client: Who wants it.
        request: By what number the client knows it, within its session.
        options: How it would be built now.
        fresh: Whether the build directory is to be a new one.
        words: A command and its arguments; none for a shell that reads commands.
        terminal: The terminal to run it on; None for pipes.
        term: The kind of terminal.
    """

    drv: StorePath
    client: Client
    request: int
    options: BuildOptions
    fresh: bool = False
    words: tuple[str, ...] = ()
    terminal: Terminal | None = None
    term: str = ""


@dataclass(frozen=True, slots=True)
class Talk:
    """A client's side of a visit; each of these is awaited.

    Attributes:
        typed: Gives what the client typed since, in pieces; nothing at the end of it.
        show: Takes what was printed.
        tell: Takes what happens before that.
        begin: Called when the shell runs, with its process and the kept directory, if any.
    """

    typed: Callable[[], Awaitable[list[bytes]]]
    show: Callable[[bytes], Awaitable[None]]
    tell: Callable[[BuildEvent], Awaitable[None]]
    begin: Callable[[int, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Departure:
    """How a shell ended, and where its build directory is; that is empty if it was a new one."""

    status: ExitStatus
    kept: str


@dataclass(slots=True, eq=False)
class Visit:
    """A shell, or one that is about to run; a follower of the job that stands for it."""

    number: int
    wish: Wish
    client: Client
    job: Job
    queue: EventQueue = field(default_factory=EventQueue)
    streams: Streams | None = None
    idle: trio.CancelScope = field(default_factory=trio.CancelScope)

    def job_made(self, job: AnyJob) -> None:
        """Nothing is made."""

    def job_finished(self, job: AnyJob) -> None:
        """Nobody finishes the job of a visit."""

    def end(self) -> None:
        """Kill all in its container; what became of the copy is kept."""
        self.job.scope.cancel()

    def resize(self, terminal: Terminal) -> bool:
        """Change the size of its terminal; tell whether it has one."""
        return self.streams is not None and self.streams.resize(terminal)
