# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting together what substitutes. Entry point: `make_substituting`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from builder.agents import Program
from builder.outputs.cleaning import Cleaner
from builder.outputs.sealing import Sealer
from builder.substitution.answers import Answers
from builder.substitution.downloads import Downloader
from builder.substitution.offers import Sources
from builder.substitution.protocol import program_environment
from builder.substitution.queries import Queries
from builder.substitution.resident import Residents
from builder.substitution.substituter import Parts, Substituter
from locker.pathlocks import PathLocks
from reaper.monitor import ProcessMonitor
from store.database import StoreDatabase
from store.derivation_checks import DerivationChecker
from store.paths import StoreDirectory
from store.tally import CacheStatistics

IDLE_QUERIES = 4
"""Programs that only answer questions, kept for as many sets of sources."""


@dataclass(frozen=True, slots=True)
class SubstituteSettings:
    """How this daemon substitutes.

    Attributes:
        program: The program ``guix``; empty for no substitutes, and there need not be one.
        environment: The whole environment it gets.
        width: How many items are downloaded at once.
    """

    program: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    width: int = 1

    def is_present(self) -> bool:
        """Tell whether the program can be started."""
        return bool(self.program) and os.access(self.program, os.X_OK)

    def for_queries(self, sources: Sources) -> Program:
        """Return the program that tells what there is."""
        return self._program("--query", sources.query)

    def for_downloads(self, sources: Sources) -> Program:
        """Return the program that downloads."""
        return self._program("--substitute", sources.download)

    def _program(self, mode: str, settings: tuple[tuple[str, str], ...]) -> Program:
        environment = program_environment(self.environment, settings)
        return Program(self.program, ("substitute", mode), environment)


@dataclass(frozen=True, slots=True)
class Substituting:
    """The parts that substitute, and that must run while anything may be substituted."""

    substituter: Substituter
    queries: Queries
    residents: tuple[Residents, ...]
    checker: DerivationChecker

    def caches(self) -> tuple[CacheStatistics, ...]:
        """Return how what is remembered does."""
        checked = self.checker.statistics("derivation-hashes-substituted")
        programs = (residents.statistics() for residents in self.residents)
        return self.queries.statistics(), checked, *programs

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Substitute until cancelled."""
        async with trio.open_nursery() as programs:
            for residents in self.residents:
                await programs.start(residents.run)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.queries.run)
                task_status.started()


def make_substituting(
    settings: SubstituteSettings,
    directory: StoreDirectory,
    database: StoreDatabase,
    locks: PathLocks,
    monitor: ProcessMonitor,
    cleaner: Cleaner,
    sealer: Sealer,
) -> Substituting:
    """Make everything that substitutes; nothing is started before it is needed."""
    askers = Residents("substitute-askers", monitor, IDLE_QUERIES)
    fetchers = Residents("substitute-fetchers", monitor, settings.width)
    queries = Queries(directory, askers, settings.for_queries, Answers(trio.current_time))
    checker = DerivationChecker(directory)
    parts = Parts(
        database=database,
        locks=locks,
        cleaner=cleaner,
        sealer=sealer,
        checker=checker,
        queries=queries,
        downloader=Downloader(fetchers, settings.for_downloads),
        is_present=settings.is_present,
    )
    substituter = Substituter(parts, settings.width)
    return Substituting(substituter, queries, (askers, fetchers), checker)
