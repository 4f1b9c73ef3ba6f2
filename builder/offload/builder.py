# SPDX-License-Identifier: GPL-3.0-or-later
"""Having one derivation built by the hook that accepted it, from its inputs to its outputs."""

import os
from collections.abc import Sequence

import trio

from builder.build import NO_SPACE, Builder
from builder.events import BuildSucceeded
from builder.inputs import closure_of
from builder.offload.hooks import Hook
from builder.offload.remote import RemoteBuild, check_remote_exit, check_remote_outputs
from builder.outputs.lookup import remember
from builder.scheduling.jobs import Job
from builder.workshop import Workshop
from reaper.process import ExitStatus
from store.paths import StorePath


class RemoteBuilder:
    """Has derivations built elsewhere.

    Args:
        workshop: What all builds share.
        builder: Builds here; what both do alike is asked of it.
    """

    def __init__(self, workshop: Workshop, builder: Builder) -> None:
        self._shop = workshop
        self._builder = builder

    async def build(self, job: Job, missing: Sequence[StorePath], hook: Hook) -> None:
        """Have missing outputs made valid, and end the hook.

        Args:
            job: Its outputs are locked.
            missing: Those of them that are not valid.
            hook: The one that accepted the job.

        Raises:
            BuildError: The other machine failed, or not all outputs were brought back.
        """
        started = trio.current_time()
        async with hook:
            await self._builder.remove_invalid(missing)
            status = await self._run(job, missing, hook)
        check_remote_exit(job, status, disk_full=self._disk_full())
        absent = [path for path in missing if not self._shop.database.is_valid(path)]
        check_remote_outputs(job, status, absent)
        infos = [self._shop.database.path_info(path) for path in missing]
        remember(self._shop.content_index, job.derivation, infos)
        seconds = trio.current_time() - started
        job.audience.tell(BuildSucceeded(job.path, job.derivation.output_paths, seconds))

    async def _run(self, job: Job, missing: Sequence[StorePath], hook: Hook) -> ExitStatus:
        # The derivation goes along with all that it refers to, so that it is valid there as well.
        inputs = await self._builder.preparer.inputs(job)
        needed = inputs | await closure_of(self._shop.database, [job.path])
        log = self._builder.open_log(job)
        try:
            build = RemoteBuild(job, hook, log, self._builder.limits(job))
            return await build.run(needed, missing)
        finally:
            if log is not None:
                await log.close()

    def _disk_full(self) -> bool:
        status = os.statvfs(self._shop.layout.store)
        return status.f_bavail * status.f_bsize < NO_SPACE
