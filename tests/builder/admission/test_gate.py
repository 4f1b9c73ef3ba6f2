# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds start when they may, and give others their turn as soon as their builder has ended."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from builder.admission.gate import Admission
from builder.admission.machine import MachineReader
from builder.admission.obstacles import AdmissionSettings
from builder.admission.slots import Asker, Slots
from builder.options import BuildMode, BuildOptions
from builder.scheduling.jobs import Job, JobKey, JobState
from store.derivations import Derivation
from store.paths import StorePath

DERIVATION = Derivation({}, {}, (), "x86_64-linux", "/bin/sh", (), {})


def make_job(name: str) -> Job:
    """Make somebody's job."""
    path = StorePath(f"/gnu/store/{'a' * 32}-{name}.drv")
    job = Job(JobKey(path, BuildMode.NORMAL), BuildOptions(), 0.0, derivation=DERIVATION)
    job.claim.add(Asker("somebody"))
    return job


class Site:
    """An admission, and the jobs that it has let in."""

    def __init__(self, slots: int, nursery: trio.Nursery) -> None:
        self.admission = Admission(
            Slots(slots), MachineReader(trio.current_time), AdmissionSettings()
        )
        self.inside: list[str] = []
        self._nursery = nursery
        self._leave = {name: trio.Event() for name in "abcd"}

    async def begin(self, name: str) -> Job:
        """Ask for a job to be let in."""
        job = make_job(name)
        self._nursery.start_soon(self._run, name, job)
        await wait_all_tasks_blocked()
        return job

    async def end(self, name: str) -> None:
        """Let a job leave."""
        self._leave[name].set()
        await wait_all_tasks_blocked()

    async def _run(self, name: str, job: Job) -> None:
        async with self._entered(name, job):
            await self._leave[name].wait()

    @asynccontextmanager
    async def _entered(self, name: str, job: Job) -> AsyncIterator[None]:
        async with self.admission.admitted(job):
            self.inside.append(name)
            yield
            self.inside.remove(name)


@pytest.fixture
async def site(nursery: trio.Nursery) -> Site:
    """A site with one slot."""
    return Site(1, nursery)


async def test_the_next_one_starts_while_outputs_are_sealed(site: Site):
    """A slot is for a builder, not for what comes after it."""
    first = await site.begin("a")
    await site.begin("b")
    assert site.inside == ["a"]
    first.builder_ended()
    await wait_all_tasks_blocked()
    assert site.inside == ["a", "b"]
    assert first.state is JobState.SEALING
    for name in "ab":
        await site.end(name)
    assert site.admission.slots.statistics().taken == 0


async def test_no_more_are_sealed_at_a_time_than_may_run(site: Site):
    """Else what was built but not registered could fill the disk."""
    jobs = [await site.begin("a"), await site.begin("b")]
    await site.begin("c")
    for job in jobs:
        job.builder_ended()
        await wait_all_tasks_blocked()
    assert site.inside == ["a", "b"]
    await site.end("b")
    assert site.inside == ["a", "c"]
    for name in "ac":
        await site.end(name)
    assert site.admission.slots.statistics().taken == 0
