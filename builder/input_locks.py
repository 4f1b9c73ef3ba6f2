# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks on what builds read: no collector may delete it, whichever process collects.

While a build lasts, each of its inputs is locked for reading: the item itself, opened
read-only, wholly, by an open-file-description lock that the locker holds. Files and
directories can be locked so; a symbolic link cannot, and has nothing to lose. A lock is
shared by all builds that have the input. Builds of less than a moment are not worth
it: what begins is kept by temporary roots, as with the C++ daemon, and these locks are
what is left if somebody deletes or does not know them.

Entry points: `InputLocks.held`, and `InputLocks.run` as a task.
"""

import os
import resource
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from math import inf

import structlog
import trio

from builder.brackets import Bracket
from locker.batches import BATCH
from locker.client import Locker
from locker.errors import LockError
from store import turns
from store.paths import StorePath

MOMENT = 0.25
"""Seconds that a build has to last for its inputs to be locked."""

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

log = structlog.get_logger("builder")


class _Hold:
    """A build's wish."""

    __slots__ = ("begun", "counted", "due", "inputs")

    def __init__(self, inputs: Collection[StorePath], due: float) -> None:
        self.inputs = inputs
        self.due = due
        self.begun = False
        self.counted = 0


class InputLocks:
    """Locks inputs of builds.

    Args:
        locker: Holds the locks.
    """

    def __init__(self, locker: Locker) -> None:
        self._locker = locker
        # The locker has the same limit, and lock files need descriptors as well.
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] * 3 // 4
        self._holds: set[_Hold] = set()
        self._over: list[_Hold] = []
        self._users: Counter[StorePath] = Counter()
        self._tokens: dict[StorePath, int] = {}
        self._changed = trio.Event()
        self._looks_again = inf

    @property
    def count(self) -> int:
        """How many items are locked."""
        return len(self._tokens)

    def held(self, inputs: Collection[StorePath]) -> AbstractContextManager[None]:
        """Have inputs locked until the context is left, from soon on; costs the build nothing."""
        hold = _Hold(inputs, trio.current_time() + MOMENT)
        self._holds.add(hold)
        if hold.due < self._looks_again:
            self._changed.set()
        return Bracket(None, partial(self._end, hold))

    def _end(self, hold: _Hold) -> None:
        self._holds.remove(hold)
        if hold.begun:
            self._over.append(hold)
            self._changed.set()

    async def run(self) -> None:
        """Lock and release until cancelled."""
        try:
            while True:
                await self._wait()
                await self._release()
                now = trio.current_time()
                for hold in [each for each in self._holds if each.due <= now and not each.begun]:
                    await self._lock(hold)
        finally:
            await self._locker.release(self._tokens.values())
            self._tokens.clear()

    async def _wait(self) -> None:
        """Wait until there is something to do."""
        while not self._over:
            due = min((each.due for each in self._holds if not each.begun), default=None)
            if due is not None and due <= trio.current_time():
                return
            self._changed = trio.Event()
            self._looks_again = inf if due is None else due
            with trio.move_on_at(self._looks_again):
                await self._changed.wait()

    async def _lock(self, hold: _Hold) -> None:
        hold.begun = True
        remaining = iter(hold.inputs)
        while hold in self._holds and (portion := list(islice(remaining, BATCH))):
            if len(self._tokens) + BATCH > self._most:
                log.info("inputs_not_locked", inputs=len(hold.inputs), locked=len(self._tokens))
                return
            self._users.update(portion)
            hold.counted += len(portion)
            try:
                await self._lock_portion(path for path in portion if path not in self._tokens)
            except LockError as error:
                log.warning("inputs_not_locked", error=error.message)
                return
            await trio.lowlevel.checkpoint()

    async def _lock_portion(self, paths: Iterable[StorePath]) -> None:
        opened = {path: fd for path in paths if (fd := _open(path)) >= 0}
        if not opened:
            return
        # Nobody locks items for writing; who does anyway is not waited for.
        lease = await self._locker.acquire(list(opened.values()), _itself, shared=True, wait=False)
        if lease is not None:
            self._tokens.update(zip(opened, lease.disown(), strict=True))

    async def _release(self) -> None:
        over, self._over = self._over, []
        for hold in over:
            for portion in turns.portions(islice(hold.inputs, hold.counted)):
                await self._locker.release(self._unused_tokens(portion))
                await trio.lowlevel.checkpoint()

    def _unused_tokens(self, paths: Iterable[StorePath]) -> list[int]:
        """Count one user less of each item; return the tokens of those that have none left."""
        tokens = []
        for path in paths:
            self._users[path] -= 1
            if not self._users[path]:
                del self._users[path]
                token = self._tokens.pop(path, None)
                if token is not None:
                    tokens.append(token)
        return tokens


def _open(path: StorePath) -> int:
    try:
        return os.open(path, _OPEN)
    except OSError:
        # A symbolic link; or it is gone, of which the builder will tell.
        return -1


def _itself(fd: int) -> int:
    return fd
