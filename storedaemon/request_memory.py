# SPDX-License-Identifier: GPL-3.0-or-later
"""What the long requests of all sessions together take up in memory.

One request has a bound of its own, but a thousand clients have a thousand. So what
a request takes beyond a little is counted, and who comes when too much is there
has to wait; its socket then slows the client down. The request that has been there
for longest never waits, so something always goes on, and at most that one request
goes beyond the limit. A client that falls silent in the middle of a request while
others wait for its room loses the request. Entry point: `RequestMemory`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import trio

from store.errors import StoreError

FREE = 64 * 1024
"""Bytes of each request that do not count."""

PATIENCE = 10.0
"""Seconds that others wait for a client that is silent in the middle of its request."""


class SilentClientError(StoreError):
    """A client stopped in the middle of a long request, and others needed the room."""

    default_reason = "silent"


@dataclass(frozen=True, slots=True)
class RequestMemoryStatistics:
    """How it goes: bytes that count and may count, requests that wait, waited and were dropped."""

    used: int
    limit: int
    waiting: int
    waited: int
    dropped: int


class RequestMemory:
    """Room for the requests of all sessions.

    Args:
        limit: The bytes that may count.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._shares: dict[Share, None] = {}
        self._line: dict[Share, trio.Event] = {}
        self._waited = 0
        self._dropped = 0

    def statistics(self) -> RequestMemoryStatistics:
        """Tell how it goes."""
        return RequestMemoryStatistics(
            self._used, self._limit, len(self._line), self._waited, self._dropped
        )

    def share(self) -> "Share":
        """Return the share of one request, or of one after the other."""
        return Share(self)

    async def grow(self, share: "Share", wanted: int) -> None:
        """Let a share have more, once there is room; for `Share`."""
        self._shares.setdefault(share)
        share.wanted = wanted
        event = self._line[share] = trio.Event()
        self._hand_out()
        if event.is_set():
            return
        self._waited += 1
        try:
            while not event.is_set():
                with trio.move_on_after(PATIENCE):
                    await event.wait()
                    return
                self._drop_silent()
        except BaseException:
            self._line.pop(share, None)
            self.shrink(share, share.size)
            raise

    def shrink(self, share: "Share", wanted: int) -> None:
        """Let a share want less, and take back what it has beyond that; for `Share`."""
        share.wanted = wanted
        freed = max(share.size - wanted, 0)
        share.size -= freed
        self._used -= freed
        if share.size == wanted and share in self._line:
            self._line.pop(share).set()
        if not wanted:
            self._shares.pop(share, None)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give room to the oldest request, and to those in line as long as it lasts."""
        while self._line:
            oldest = next(iter(self._shares))
            share = oldest if oldest in self._line else next(iter(self._line))
            more = share.wanted - share.size
            if share is not oldest and self._used + more > self._limit:
                return
            self._used += more
            share.size = share.wanted
            self._line.pop(share).set()

    def _drop_silent(self) -> None:
        latest = trio.current_time() - PATIENCE
        for share in self._shares:
            if share.listens is not None and share.silent_since <= latest and share.owes():
                self._dropped += 1
                share.listens.cancel()
                share.listens = None


class Share:
    """What one request counts for; a context manager that gives it back.

    Attributes:
        size: The bytes that count.
        wanted: Those that are to, once there is room.
        silent_since: When the session began to wait for its client.
        listens: Cancelled to end that; None while it does not wait.
        owes: Tells whether it is the client's turn to go on.
    """

    __slots__ = ("_memory", "listens", "owes", "silent_since", "size", "wanted")

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self.size = 0
        self.wanted = 0
        self.silent_since = 0.0
        self.listens: trio.CancelScope | None = None
        self.owes: Callable[[], bool] = lambda: True

    async def hold(self, size: int) -> None:
        """Return when a request may be so long; no checkpoint, unless it has to wait."""
        if size - FREE > self.wanted:
            await self._memory.grow(self, size - FREE)

    def lower(self, size: int) -> None:
        """Have no more than for a request of such a length, whoever waits for more."""
        wanted = max(size - FREE, 0)
        if wanted < self.wanted:
            self._memory.shrink(self, wanted)

    def release(self) -> None:
        """Have nothing any more."""
        self.lower(0)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Wait for the client inside, in the middle of a request.

        Raises:
            SilentClientError: That took too long, and others wait for room.
        """
        if not self.size:
            yield
            return
        with trio.CancelScope() as scope:
            self.silent_since, self.listens = trio.current_time(), scope
            try:
                yield
            finally:
                self.listens = None
        if scope.cancelled_caught:
            raise SilentClientError(
                f"nothing came for {PATIENCE:.0f} s in the middle of a request, "
                "and others need the memory that it takes"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
