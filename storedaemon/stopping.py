# SPDX-License-Identifier: GPL-3.0-or-later
"""How a running daemon comes to its end: by a signal, or because a part of it failed.

The first signal asks for an orderly stop, which cancels what runs and leaves
the store as it should be. A second one, or a stop that takes too long, ends the
process at once: locks and channels are the kernel's to clean up then.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import trio

from locker.errors import HelperError
from store.errors import StoreError
from storedaemon.logs import Logger
from storedaemon.signals import SIGNALS

T = TypeVar("T")

# A service manager's patience is 90 s; a stop needs seconds at most.
GRACE_SECONDS = 30.0


class Stop:
    """Whether and why the daemon is to stop.

    Attributes:
        exit_code: What the process will return: 0 after a signal, 1 after a fault.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._asked = trio.Event()
        self.exit_code = 0

    @property
    def asked(self) -> bool:
        """Whether the daemon is stopping."""
        return self._asked.is_set()

    def request(self, why: str) -> None:
        """Ask for an orderly stop."""
        if not self.asked:
            self._log.info("stopping", why=why)
        self._asked.set()

    def fail(self, why: str) -> None:
        """Ask for an orderly stop because something is broken, unless one goes on already."""
        if not self.asked:
            self.exit_code = 1
            self._log.error("stopping", why=why)
        self._asked.set()

    async def wait(self) -> None:
        """Wait until the daemon is to stop."""
        await self._asked.wait()

    async def unless_asked(self, work: Awaitable[T]) -> T | None:
        """Await something that a stop cancels; None if it did."""
        done: T | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_asked, nursery.cancel_scope)
            done = await work
            nursery.cancel_scope.cancel()
        return done

    async def _cancel_when_asked(self, scope: trio.CancelScope) -> None:
        await self.wait()
        scope.cancel()

    async def guard(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the daemon; if it ends unasked, report why and stop the daemon in order.

        Errors that name what an owner can mend are told in a sentence, others with a traceback.
        """
        try:
            await part()
        except* (StoreError, HelperError) as group:
            self.fail(f"{name}: {_first(group)}")
        except* Exception:  # noqa: BLE001 - it is reported, and the daemon stops
            self._log.exception("part failed", part=name)
        self.fail(f"{name} ended")


def _first(group: BaseExceptionGroup[StoreError | HelperError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def watch_signals(
    stop: Stop, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Stop the daemon at the first signal, and end the process at the second."""
    with trio.open_signal_receiver(*SIGNALS) as arrivals:
        task_status.started()
        async for number in arrivals:
            if stop.asked:
                end_at_once(128 + number)
            stop.request(signal.Signals(number).name)


async def limit_stop(stop: Stop, log: Logger) -> None:
    """End the process when an orderly stop takes too long."""
    await stop.wait()
    await trio.sleep(GRACE_SECONDS)
    log.error("stop takes too long")
    end_at_once(1)


def end_at_once(code: int) -> NoReturn:
    """End the process without cleaning up: builds and helpers die with it."""
    os._exit(code)
