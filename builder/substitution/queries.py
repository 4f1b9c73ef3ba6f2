# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking ``guix substitute --query`` what there is, for all clients together.

There is one program for each set of sources. What is asked while it answers is
asked together, next; what one client asked is not asked again for another. A
question that nobody waits for any more is broken off, and its program ended.
Entry point: `Queries.ask`.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
import trio

from builder.agents import AgentError, Program
from builder.substitution.answers import Answers
from builder.substitution.offers import Offer, Sources
from builder.substitution.protocol import LineSplitter, OfferReader, info_request
from builder.substitution.resident import Resident, Residents
from store.errors import StoreError
from store.paths import StoreDirectory, StorePath
from store.tally import CacheStatistics

log = structlog.get_logger("substitution")

MAX_QUESTION = 4096
"""Items in one question; the line that names them has up to half a mebibyte."""
SILENCE_SECONDS = 300.0
"""How long a program may say nothing at all before it counts as hung."""

_CHUNK = 65536

Listen = Callable[[bytes], None]


@dataclass(slots=True, eq=False)
class _Asker:
    """One who waits for answers."""

    paths: frozenset[StorePath]
    listen: Listen
    error: StoreError | None = None
    answered: trio.Event = field(default_factory=trio.Event)
    offers: dict[StorePath, Offer] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Desk:
    """Those who wait for answers from one set of sources."""

    waiting: list[_Asker] = field(default_factory=list)
    served: list[_Asker] = field(default_factory=list)
    scope: trio.CancelScope | None = None


class Queries:
    """Asks what there is.

    Args:
        directory: The store's paths.
        residents: Keeps the programs.
        program: Returns the program that answers for some sources.
        answers: What is known already.
    """

    def __init__(
        self,
        directory: StoreDirectory,
        residents: Residents,
        program: Callable[[Sources], Program],
        answers: Answers,
    ) -> None:
        self._directory = directory
        self._residents = residents
        self._program = program
        self._answers = answers
        self._desks: dict[Sources, _Desk] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def ask(
        self, paths: Collection[StorePath], sources: Sources, listen: Listen
    ) -> dict[StorePath, Offer]:
        """Return what is offered of some items.

        Args:
            paths: The items.
            sources: Where to look.
            listen: Called with what the program prints meanwhile, line by line.

        Raises:
            StoreError: The program cannot be asked, or died.
        """
        known = self._answers.known(sources, paths)
        offers = {path: offer for path, offer in known.items() if offer is not None}
        unknown = frozenset(paths) - known.keys()
        if unknown:
            offers |= await self._wait(_Asker(unknown, listen), sources)
        return offers

    def statistics(self) -> CacheStatistics:
        """Return how often an answer was known already."""
        return self._answers.statistics()

    def forget(self, path: StorePath) -> None:
        """Forget what is known of an item that turned out not to be had."""
        self._answers.forget(path)

    async def _wait(self, asker: _Asker, sources: Sources) -> Mapping[StorePath, Offer]:
        assert self._nursery is not None, "queries run before anyone asks"
        desk = self._desks.get(sources)
        if desk is None:
            desk = self._desks[sources] = _Desk()
            self._nursery.start_soon(self._serve, sources, desk)
        desk.waiting.append(asker)
        try:
            await asker.answered.wait()
        finally:
            _leave(desk, asker)
        if asker.error is not None:
            raise asker.error
        return asker.offers

    async def _serve(self, sources: Sources, desk: _Desk) -> None:
        """Answer all who wait, and those who come meanwhile."""
        while desk.waiting:
            desk.served, desk.waiting = desk.waiting, []
            with trio.CancelScope() as desk.scope:
                await self._answer(sources, desk)
            desk.scope = None
        del self._desks[sources]

    async def _answer(self, sources: Sources, desk: _Desk) -> None:
        wanted = sorted(frozenset().union(*(asker.paths for asker in desk.served)))
        # Somebody may have asked for the same just before.
        known = self._answers.known(sources, wanted)
        found = {path: offer for path, offer in known.items() if offer is not None}
        unknown = [path for path in wanted if path not in known]
        try:
            for start in range(0, len(unknown), MAX_QUESTION):
                asked = unknown[start : start + MAX_QUESTION]
                answer = await self._ask_program(sources, asked, desk)
                self._answers.add(sources, asked, answer)
                found |= answer
        except (StoreError, OSError) as error:
            _dismiss(desk, error if isinstance(error, StoreError) else AgentError(str(error)))
            return
        except Exception as error:
            # Those who asked are told; a fault here must not end the daemon.
            log.exception("query_crashed")
            _dismiss(desk, AgentError(f"internal error while looking for substitutes: {error!r}"))
            return
        for asker in desk.served:
            asker.offers = {path: found[path] for path in asker.paths if path in found}
        _dismiss(desk, None)

    async def _ask_program(
        self, sources: Sources, asked: list[StorePath], desk: _Desk
    ) -> dict[StorePath, Offer]:
        program = self._program(sources)
        async with self._residents.lend(program) as resident:
            question = _Question(resident, OfferReader(self._directory, asked), desk)
            return await question.ask(info_request(asked))


@dataclass(slots=True)
class _Question:
    """One question to a program, and all that it says until it has answered."""

    resident: Resident
    reader: OfferReader
    desk: _Desk
    deadline: trio.CancelScope = field(default_factory=trio.CancelScope)
    failure: StoreError | None = None
    splitter: LineSplitter = field(default_factory=LineSplitter)

    async def ask(self, request: bytes) -> dict[StorePath, Offer]:
        """Ask; raises StoreError where there is no good answer."""
        self._heard()
        with self.deadline:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._send, request)
                await self._answer()
                nursery.cancel_scope.cancel()
        self._pass_on(self.splitter.feed(read_now(self.resident)))
        if rest := self.splitter.rest():
            self._pass_on([rest + b"\n"])
        if self.deadline.cancelled_caught:
            words = self.resident.agent.program.words
            raise AgentError(f"`{words}' said nothing for {SILENCE_SECONDS:.0f} seconds")
        if self.failure is not None:
            raise _better(self.failure, self.resident)
        return self.reader.offers

    async def _listen(self) -> None:
        while data := await self.resident.agent.output.receive_some(_CHUNK):
            self._heard()
            self._pass_on(self.splitter.feed(data))

    async def _answer(self) -> None:
        try:
            while not self.reader.done:
                self.reader.feed(await self.resident.replies.line())
                self._heard()
        except StoreError as error:
            self.failure = error

    async def _send(self, request: bytes) -> None:
        # Where the program has ended, whoever reads the answer finds out.
        with suppress(trio.BrokenResourceError):
            await self.resident.agent.requests.send_all(request)

    def _heard(self) -> None:
        self.deadline.deadline = trio.current_time() + SILENCE_SECONDS

    def _pass_on(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            for asker in self.desk.served:
                asker.listen(line)


def read_now(resident: Resident) -> bytes:
    """Read what a program has printed already, without waiting for more."""
    # A pipe holds no more than this, unless somebody goes on writing, who is not waited for.
    try:
        return os.read(resident.agent.output.fileno(), _CHUNK)
    except BlockingIOError:
        return b""


def _better(error: StoreError, resident: Resident) -> StoreError:
    """Put an end that came too early into the words that clients know."""
    if isinstance(error, AgentError) and error.message.endswith("ended unexpectedly"):
        return AgentError(f"`{resident.agent.program.path} substitute' died unexpectedly")
    return error


def _leave(desk: _Desk, asker: _Asker) -> None:
    if asker in desk.waiting:
        desk.waiting.remove(asker)
    elif asker in desk.served:
        desk.served.remove(asker)
        if not desk.served and desk.scope is not None:
            desk.scope.cancel()


def _dismiss(desk: _Desk, error: StoreError | None) -> None:
    served, desk.served = desk.served, []
    for asker in served:
        asker.error = error
        asker.answered.set()
