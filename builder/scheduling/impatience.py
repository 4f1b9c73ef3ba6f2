# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling clients why nothing happens, once they have waited for some seconds.

One task looks at all requests. A request none of whose goals goes on gets a line that
says what the first of them waits for; again only when that is another thing, or after
ever longer times. The line begins as the C++ daemon's does, by which Guix knows it.
Entry point: `Impatience`.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass

import trio

from builder.events import Level, Message
from builder.scheduling.jobs import AnyJob
from builder.scheduling.requests import Request
from builder.scheduling.waiting import clock

SECONDS = 5.0
"""How long a client waits before it is told for what."""

LONGEST = 600.0


@dataclass(slots=True)
class _Told:
    text: str
    again: float
    pause: float


class Impatience:
    """Remembers what each request was told last.

    Args:
        requests: Those that wait; others come and go.
    """

    def __init__(self, requests: Collection[Request]) -> None:
        self._requests = requests
        self._told: dict[Request, _Told] = {}

    async def run(self) -> None:
        """Tell those who wait, until cancelled."""
        while True:
            await trio.sleep(SECONDS / 2)
            self.look(time.time())

    def look(self, now: float) -> None:
        """Tell each request whose goals all wait for long; `now` is in seconds since 1970."""
        self._told = {each: told for each, told in self._told.items() if each in self._requests}
        for request in tuple(self._requests):
            jobs = request.jobs
            if jobs and all(_waits_long(job, now) for job in jobs):
                self._tell(request, jobs, now)

    def _tell(self, request: Request, jobs: Collection[AnyJob], now: float) -> None:
        text = _explanation(jobs)
        told = self._told.get(request)
        if told is not None and told.text == text and now < told.again:
            return
        pause = min(told.pause * 2, LONGEST) if told and told.text == text else SECONDS * 6
        self._told[request] = _Told(text, now + pause, pause)
        request.queue.put(Message(text, Level.ERROR))


def _waits_long(job: AnyJob, now: float) -> bool:
    return job.waits is not None and now - job.waits.since >= SECONDS


def _explanation(jobs: Collection[AnyJob]) -> str:
    first = min(jobs, key=lambda job: (job.waits.since if job.waits else 0.0, job.path))
    assert first.waits is not None
    others = f", and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    since = clock(first.waits.since)
    return (
        f"waiting for locks or build slots: `{first.path}' needs {first.waits.text}"
        f" (since {since}{others})"
    )
