# SPDX-License-Identifier: GPL-3.0-or-later
"""When a build may start: with a slot of its own, on a machine that can bear one more.

A build that would start beside others waits while the machine has too much to do, or
too little memory for what a derivation of the same name needed before. What has
started already is counted with the memory it has not taken yet. One build always
runs, so nothing waits for ever. Entry point: `Admission`.
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio

from builder.admission.machine import MachineReader
from builder.admission.obstacles import AdmissionSettings, obstacle
from builder.admission.slots import Slot, Slots
from builder.brackets import AsyncBracket
from builder.retries.policy import Quiet, limit
from builder.scheduling.jobs import Admitted, Job, JobState
from builder.scheduling.waiting import Holder, running_builds, slot_holders

SETTLING = 30.0
"""Seconds after which a build that is not measured is taken to have the memory it needs."""

_LOOK_AGAIN = 1.0


class Admission:
    """Lets builds start.

    Args:
        slots: How many may run at once.
        machine: Looks at the machine.
        settings: What it must be like.
        clock: Seconds of a clock that does not jump.
    """

    def __init__(
        self,
        slots: Slots,
        machine: MachineReader,
        settings: AdmissionSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = slots
        self._machine = machine
        self._settings = settings
        self._clock = clock
        self._running: dict[Slot, Job] = {}
        self._sealing: set[Slot] = set()
        self._changed = trio.Event()
        self._explained: list[tuple[Slot, str]] = []
        self._explanation = running_builds(())

    def admitted(self, job: Job) -> AbstractAsyncContextManager[Slot]:
        """Wait until a build may start, and have it counted as running inside."""
        return AsyncBracket(partial(self._enter, job), self._leave)

    async def _enter(self, job: Job) -> Slot:
        slot = await self._slot(job)
        try:
            await self._wait_for_machine(job)
        except BaseException:
            self._leave(slot)
            raise
        ended = partial(self._builder_ended, slot)
        state = self._machine.state()
        job.admitted = Admitted(slot, time.time(), self._clock(), state, ended)
        self._running[slot] = job
        return slot

    def _leave(self, slot: Slot) -> None:
        if slot in self._sealing:
            self._sealing.remove(slot)
        else:
            self._release(slot)

    def _builder_ended(self, slot: Slot) -> None:
        """Let the next builder start while this one's outputs are sealed, but not ever more."""
        if slot not in self._sealing and len(self._sealing) < self.slots.capacity:
            self._sealing.add(slot)
            self._release(slot)

    def _release(self, slot: Slot) -> None:
        self._running.pop(slot, None)
        self.slots.release(slot)
        self._changed.set()

    async def _slot(self, job: Job) -> Slot:
        usual = job.quiet is Quiet.USUAL
        most = None if usual else limit(job.quiet, self.slots.capacity)
        slot = self.slots.acquire_nowait(job.claim, most)
        if slot is None:
            self._explain(job)
            slot = await self._wait_for_slot(job, most)
        return slot

    def _explain(self, job: Job) -> None:
        reason, holders = self._reason()
        if job.quiet is Quiet.USUAL:
            job.wait(JobState.WAITING_FOR_SLOT, "build slot", reason, holders)
        else:
            wish = "to be alone" if job.quiet is Quiet.ALONE else "half the slots to be free"
            job.wait(JobState.WAITING_FOR_QUIET, wish, reason, holders)

    def _reason(self) -> tuple[str, tuple[Holder, ...]]:
        """Say what holds the slots; thousands may begin to wait for the same few builds."""
        slots = self.slots.holders
        explained = [(slot, slot.claim.user) for slot in slots]
        if explained != self._explained:
            self._explained, self._explanation = explained, running_builds(slots)
        return self._explanation

    async def _wait_for_slot(self, job: Job, most: int | None) -> Slot:
        """Wait for a slot; where quiet is wished for, a quiet machine will do as well."""
        if most is None:
            return await self.slots.acquire(job.claim)
        retries = job.options.retries
        patience = trio.current_time() + retries.patience
        while most is not None and trio.current_time() < patience:
            with trio.move_on_after(_LOOK_AGAIN):
                return await self.slots.acquire(job.claim, most)
            if retries.is_quiet(self._machine.state()):
                most = None
        return await self.slots.acquire(job.claim, most, 0 if most else float("inf"))

    async def _wait_for_machine(self, job: Job) -> None:
        while self._running:
            found = obstacle(
                self._settings, self._machine.state(), job.expected_memory, self._reserved()
            )
            if found is None:
                return
            holders = slot_holders(s for s in self.slots.holders if s.claim is not job.claim)
            job.wait(JobState.WAITING_FOR_RESOURCES, found.what, found.holder, holders)
            self._changed = trio.Event()
            with trio.move_on_after(_LOOK_AGAIN):
                await self._changed.wait()

    def _reserved(self) -> int:
        now = self._clock()
        return sum(_not_taken_yet(each, now) for each in self._running.values())


def _not_taken_yet(job: Job, now: float) -> int:
    """Return how many more bytes a build that runs is expected to take."""
    meter, expected = job.meter, job.expected_memory
    if meter is not None and meter.current is not None:
        return max(expected - meter.current, 0)
    assert job.admitted is not None, "a build runs when it was let start"
    return expected if now - job.admitted.clock < SETTLING else 0
