# SPDX-License-Identifier: GPL-3.0-or-later
"""Measuring the memory of builds that last, without cost for those that do not.

Moving a process into a cgroup takes the kernel some ten milliseconds, so it is done
in a thread, and for builds of more than a moment only, or at once where their memory
is limited. Entry point: `Meters`.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import inf

import structlog
import trio

from builder.brackets import Bracket
from builder.memory.group import Group
from builder.memory.home import Home, own_place

MOMENT = 0.5
"""Seconds after which a build is measured, and between two looks at it."""

log = structlog.get_logger("builder")


class Meter:
    """What is known of the memory of one build.

    Attributes:
        limit: Bytes that it may have; 0 for any number.
        current: Bytes that it has; None as long as it was not measured.
        peak: The most that it was seen to have.
        oom_kills: Its processes that the kernel ended because they had too much.
    """

    def __init__(self, pid: int, due: float, limit: int) -> None:
        self.pid = pid
        self.due = due
        self.limit = limit
        self.current: int | None = None
        self.peak = 0
        self.oom_kills = 0
        self.group: Group | None = None
        self.failed = False

    @property
    def is_limited(self) -> bool:
        """Whether its memory is limited indeed."""
        return bool(self.limit) and self.group is not None

    def look(self, home: Home) -> None:
        """Measure, for a thread; the first time makes the cgroup."""
        try:
            if self.group is None:
                self._begin(home)
            if self.group is not None:
                self.current = self.group.demand()
                self.peak = max(self.peak, self.current)
        except OSError as error:
            self.failed = True
            log.warning("build_not_measured", pid=self.pid, error=str(error))

    def _begin(self, home: Home) -> None:
        group = self.group = home.group()
        if self.limit:
            group.limit(self.limit)
        group.adopt(self.pid)

    def count_kills(self) -> None:
        """Take the last count, once the build has ended."""
        if self.group is not None:
            self.oom_kills = self.group.oom_kills()


class Meters:
    """Measures builds.

    Args:
        home: Where their cgroups are made; None where they cannot be.
        limit: Bytes that each may have, unless it is alone; 0 for any number.
    """

    def __init__(self, home: Home | None, limit: int = 0) -> None:
        self._home = home
        self._limit = limit
        self._meters: set[Meter] = set()
        self._over: list[Group] = []
        self._busy = False
        self._wanted = trio.Event()
        self._looks_again = inf

    @classmethod
    def of_machine(cls, limit: int = 0) -> "Meters":
        """Make them, with cgroups if this process may make any."""
        place, home = own_place(), None
        if place is not None:
            try:
                home = Home.make(place)
            except OSError as error:
                log.info("no_cgroups", error=str(error))
        if home is None and limit:
            log.warning("build_memory_unlimited", reason="cgroups cannot be made")
        return cls(home, limit)

    def measured(self, pid: int, *, limited: bool) -> AbstractContextManager[Meter]:
        """Measure a build until the context is left.

        Args:
            pid: Its first process.
            limited: Whether its memory is limited, if any build's is.
        """
        limit = self._limit if limited else 0
        meter = Meter(pid, trio.current_time() + (0 if limit else MOMENT), limit)
        if self._home is None:
            return nullcontext(meter)
        self._meters.add(meter)
        if meter.due < self._looks_again:
            self._wanted.set()
        return Bracket(meter, partial(self._end, meter))

    def _end(self, meter: Meter) -> None:
        self._meters.discard(meter)
        if not self._busy:
            self._remove_group(meter)

    def _remove_group(self, meter: Meter) -> None:
        if meter.group is not None and not meter.group.remove():
            self._over.append(meter.group)

    async def run(self) -> None:
        """Measure until cancelled."""
        home = self._home
        if home is None:
            return
        try:
            while True:
                await self._wait()
                await self._look(home)
        finally:
            for group in self._over:
                group.remove()
            home.close()

    async def _wait(self) -> None:
        """Wait until a meter is due, or it is time to try again to remove cgroups."""
        again = trio.current_time() + MOMENT if self._over else inf
        while (due := min([again, *(each.due for each in self._meters)])) > trio.current_time():
            self._wanted = trio.Event()
            self._looks_again = due
            with trio.move_on_at(due):
                await self._wanted.wait()
                continue
            return

    async def _look(self, home: Home) -> None:
        self._over = [group for group in self._over if not group.remove()]
        now = trio.current_time()
        due = [meter for meter in self._meters if meter.due <= now]
        if not due:
            return
        self._busy = True
        try:
            await trio.to_thread.run_sync(_look_at, due, home)
        finally:
            self._busy = False
            for meter in due:
                meter.due = inf if meter.failed else trio.current_time() + MOMENT
                if meter not in self._meters:
                    self._remove_group(meter)


def _look_at(meters: list[Meter], home: Home) -> None:
    for meter in meters:
        meter.look(home)
