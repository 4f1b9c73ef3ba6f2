# SPDX-License-Identifier: GPL-3.0-or-later
"""Reporting builds: one event for each derivation that was worked on, however many wanted it."""

import time
from contextlib import AbstractContextManager

import structlog
import trio

from builder.errors import BuildError
from builder.options import BuildOptions
from builder.scheduling.jobs import Job
from builder.scheduling.scheduler import Realiser


class ReportedRealiser:
    """Passes jobs on to a realiser, and reports how each ended.

    Args:
        inner: Does the jobs.
    """

    def __init__(self, inner: Realiser) -> None:
        self._inner = inner
        self._log = structlog.get_logger("builder").bind()

    def wanting(self, options: BuildOptions) -> AbstractContextManager[None]:
        """Pass on how many builds at once a request asks for."""
        return self._inner.wanting(options)

    async def realise(self, job: Job) -> None:
        """Realise a job; raises what the inner realiser does."""
        sessions = sorted({follower.client.session for follower in job.followers})
        outcome, since = "crashed", time.monotonic()
        try:
            await self._inner.realise(job)
            outcome = "built"
        except BuildError as error:
            outcome = error.reason
            raise
        except trio.Cancelled:
            outcome = "cancelled"
            raise
        finally:
            self._log.info(
                "build",
                drv=job.path,
                mode=job.kind,
                outcome=outcome,
                sessions=sessions,
                pid=job.started.pid if job.started else None,
                seconds=round(time.monotonic() - since, 3),
            )
