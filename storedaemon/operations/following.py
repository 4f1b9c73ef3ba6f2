# SPDX-License-Identifier: GPL-3.0-or-later
"""Following the log of a build that is going on, until the build ends.

All comes from the file, so that nothing is lost or told twice, whoever reads slowly holds
up nobody, and memory is bounded; the one who writes it is asked to let what it has
gathered be seen. Each attempt has a file of its own. Entry point: `follow_log`.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from builder.events import GoalWaiting
from builder.logfile import LogFile, attempt_log_name
from builder.scheduling.jobs import Job
from builder.scheduling.watching import Missed, Subscription
from storedaemon.operations.buildlogs import LogReader, derivation_of, find_job, open_log
from storedaemon.services import Services
from storedaemon.session import Session

GATHER_SECONDS = 0.05
"""How long output may gather before it is made visible for a follower."""

Send = Callable[[bytes], Awaitable[None]]
Tell = Callable[[GoalWaiting], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Followed:
    """How following ended.

    Attributes:
        size: Bytes of log that were sent.
        outcome: ``done``, or the kind of the failure; empty where nothing was going on.
        message: What was wrong, for people; empty after a success.
    """

    size: int
    outcome: str = ""
    message: str = ""


async def follow_log(
    services: Services, session: Session, path: str, send: Send, tell: Tell
) -> Followed:
    """Send the log of a build, all of it, while it is written and until the build ends.

    Where nothing is being built the last build's log is sent.

    Args:
        services: The daemon's.
        session: The client's.
        path: A derivation, or an item whose deriver is known.
        send: Awaited with each piece.
        tell: Awaited when the build has to wait for something.

    Raises:
        StoreError: There is neither a build nor a log (reason ``no-log``).
    """
    drv = derivation_of(services, services.directory.parse(path))
    watching = services.scheduler.watchers.subscribe(None)
    try:
        job = find_job(services, drv)
        if job is None:
            return await _send_last(services, session, path, send)
        following = _Following(services, job, send, tell)
        await following.run(watching)
    finally:
        services.scheduler.watchers.unsubscribe(watching)
    if job.error is None:
        return Followed(following.size, "done")
    return Followed(following.size, job.error.kind.value, job.error.message)


async def _send_last(services: Services, session: Session, path: str, send: Send) -> Followed:
    size = 0
    async with open_log(services, session, path) as log:
        while piece := await log.next_piece():
            size += len(piece)
            await send(piece)
    return Followed(size)


@dataclass(slots=True)
class _Following:
    services: Services
    job: Job
    send: Send
    tell: Tell
    size: int = 0
    _sent: set[tuple[int, int]] = field(default_factory=set)
    _first: int = 0

    async def run(self, watching: Subscription) -> None:
        self._first = self.job.attempt
        if self.job.waits is not None:
            await self.tell(GoalWaiting(self.job.path, *self.job.waits.told))
        while True:
            over = self.job.finished
            while await self._send_some():
                pass
            if over:
                return
            if not self.job.finished:
                await self._change(watching)

    async def _change(self, watching: Subscription) -> None:
        """Wait until something happens to the job."""
        async for sight in watching:
            if isinstance(sight, Missed):
                return
            if getattr(sight.event, "drv", "") != self.job.path:
                continue
            if isinstance(sight.event, GoalWaiting):
                await self.tell(sight.event)
            return

    async def _send_some(self) -> bool:
        """Send a file that was not sent yet, to its end; tell whether there was one."""
        for name in self._names():
            with suppress(FileNotFoundError):
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                status = os.fstat(fd)
                key = status.st_dev, status.st_ino
                if key in self._sent:
                    os.close(fd)
                    continue
                self._sent.add(key)
                await self._send_file(name, fd)
                return True
        return False

    def _names(self) -> list[str]:
        """Return where logs of attempts may be, from the first that was seen."""
        started = self.job.started
        if started is None or not started.log_file:
            return []
        earlier = range(self._first, self.job.attempt)
        return [*(attempt_log_name(started.log_file, n) for n in earlier), started.log_file]

    async def _send_file(self, name: str, fd: int) -> None:
        log = self.services.building.logs.being_written(name)
        reader, size = LogReader(name, fd, growing=True), 0
        try:
            while True:
                complete = log is None or log.closed
                while piece := await reader.next_piece():
                    size += len(piece)
                    await self.send(piece)
                if complete:
                    return
                await _more(log, size)
        finally:
            self.size += size
            reader.close()


async def _more(log: LogFile | None, size: int) -> None:
    """Wait until there is more to read than `size` bytes, or nothing will be added."""
    assert log is not None
    await log.beyond(size)
    if not log.closed:
        await trio.sleep(GATHER_SECONDS)
        await log.sync()
