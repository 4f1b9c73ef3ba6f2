# SPDX-License-Identifier: GPL-3.0-or-later
"""One download by ``guix substitute --substitute``: what is asked, said on the way, and answered.

The program knows the item only under the name it writes to; that is put right in
what it prints. Entry point: `Downloader.download`.
"""

from collections.abc import Callable
from contextlib import suppress

import trio

from builder.agents import AgentError, Program
from builder.events import SubstituteProgress, SubstituterOutput
from builder.scheduling.jobs import Download
from builder.substitution.offers import Sources
from builder.substitution.protocol import (
    LineSplitter,
    Outcome,
    parse_outcome,
    parse_progress,
    printable_status,
    substitute_request,
)
from builder.substitution.queries import read_now
from builder.substitution.resident import Resident, Residents
from store.errors import StoreError

_CHUNK = 65536


class Downloader:
    """Downloads items.

    Args:
        residents: Keeps the programs.
        program: Returns the program that downloads from some sources.
    """

    def __init__(self, residents: Residents, program: Callable[[Sources], Program]) -> None:
        self._residents = residents
        self._program = program

    async def download(self, job: Download, directory: str) -> Outcome:
        """Have an item written below a directory, under its own name.

        Cancelling ends the program.

        Raises:
            StoreError: The program cannot be started, died, broke a limit, or said what
                makes no sense.
        """
        async with self._residents.lend(self._program(job.sources)) as resident:
            return await _Transfer(job, directory, resident).run()


class _Transfer:
    """A program at work on an item."""

    def __init__(self, job: Download, directory: str, resident: Resident) -> None:
        self._job = job
        self._directory = directory
        self._resident = resident
        self._splitter = LineSplitter()
        self._silence = trio.CancelScope()
        self._total = trio.CancelScope()
        self._failure: StoreError | None = None

    async def run(self) -> Outcome:
        """Have it done."""
        job = self._job
        self._set_limits()
        with self._total, self._silence:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._send)
                await self._answer()
                nursery.cancel_scope.cancel()
        await self._pass_on(read_now(self._resident))
        if rest := self._splitter.rest():
            await self._tell(rest)
        if self._total.cancelled_caught or self._silence.cancelled_caught:
            job.status = "timeout"
            raise AgentError(f"fetching path `{job.path}' timed out")
        if self._failure is not None:
            raise AgentError(f"fetching path `{job.path}' (empty status)") from self._failure
        return parse_outcome(job.status)

    async def _answer(self) -> None:
        try:
            self._job.status = printable_status(await self._resident.replies.line())
        except StoreError as error:
            self._failure = error

    async def _send(self) -> None:
        path = self._job.path
        request = substitute_request(path, f"{self._directory}/{path.rpartition('/')[2]}")
        # Where the program has ended, whoever reads the answer finds out.
        with suppress(trio.BrokenResourceError):
            await self._resident.agent.requests.send_all(request)

    def _set_limits(self) -> None:
        if timeout := self._job.options.timeout:
            self._total.deadline = trio.current_time() + timeout
        self._heard()

    def _heard(self) -> None:
        if silence := self._job.options.max_silent_time:
            self._silence.deadline = trio.current_time() + silence

    async def _listen(self) -> None:
        while data := await self._resident.agent.output.receive_some(_CHUNK):
            self._heard()
            await self._pass_on(data)

    async def _pass_on(self, data: bytes) -> None:
        for line in self._splitter.feed(data):
            await self._tell(line)

    async def _tell(self, line: bytes) -> None:
        """Tell one line, in which the item has its own name."""
        store = self._job.path.rpartition("/")[0]
        line = line.replace(self._directory.encode() + b"/", store.encode() + b"/")
        audience, path = self._job.audience, self._job.path
        if (far := parse_progress(line)) is not None:
            await audience.tell_log(
                SubstituteProgress(path, far.phase, far.url, far.size, far.transferred)
            )
        else:
            await audience.tell_log(SubstituterOutput(path, line))
