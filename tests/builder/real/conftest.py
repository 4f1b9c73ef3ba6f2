# SPDX-License-Identifier: GPL-3.0-or-later
"""A yard: everything that builds, with real helpers, a real database and a store of its own.

Builders are shell scripts that lie in the store; the machine's shell and tools
are shown to them read-only.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

import locker.messages
from builder.errors import BuildError
from builder.events import BuildEvent, BuildFailed, BuildLog
from builder.options import BuildMode, BuildOptions, BuildSettings, Client
from builder.platforms import native_system
from builder.retries.history import History
from builder.spawner.client import Spawner, start_spawner
from locker.aio import AsyncChannel
from locker.client import Locker
from locker.pathlocks import PathLocks
from locker.start import StartedHelper, start_helper
from reaper.monitor import ProcessMonitor
from store.content_index import ContentIndex
from store.content_sources.sources import ContentSources
from store.database import NewItem, StoreDatabase
from store.derivations import (
    Derivation,
    Output,
    fill_output_paths,
    hash_derivation_modulo,
    parse_derivation,
    unparse_derivation,
)
from store.info import PathInfo
from store.layout import Layout
from store.nar.hash import nar_hash_of
from store.paths import StoreDirectory, StorePath
from store.temproots import TempRoots
from store.worker.client import StoreWorkers
from storedaemon.building import Building, Materials, make_building

HOST_DIRECTORIES = ("/bin", "/lib", "/lib64", "/usr")
HEADER = b"#!/bin/sh\nset -e\nexport PATH=/bin:/usr/bin\n"
SYSTEM = native_system(os.uname().machine)


@dataclass
class Yard:
    """A place to build in.

    Attributes:
        told: The events of all builds, in order.
    """

    layout: Layout
    database: StoreDatabase
    content_index: ContentIndex
    content_sources: ContentSources
    history: History
    building: Building
    monitor: ProcessMonitor
    temp_roots: TempRoots
    base: Path
    told: list[BuildEvent] = field(default_factory=list)
    _derivations: dict[StorePath, Derivation] = field(default_factory=dict)

    @property
    def directory(self) -> StoreDirectory:
        """The store's paths."""
        return StoreDirectory(self.layout.store)

    async def add_text(
        self,
        name: str,
        text: bytes,
        references: Iterable[StorePath] = (),
        *,
        executable: bool = False,
    ) -> StorePath:
        """Put a file into the store and register it."""
        wanted = frozenset(references)
        path = self.directory.text_path(name, sha256(text).digest(), wanted)
        if not self.database.is_valid(path):
            Path(path).write_bytes(text)
            os.chmod(path, 0o555 if executable else 0o444)
            os.utime(path, (1, 1))
            await self._register(path, wanted)
        return path

    async def add_derivation(
        self,
        script: str,
        name: str = "demo",
        inputs: Iterable[StorePath] = (),
        sources: Iterable[StorePath] = (),
        outputs: Iterable[str] = ("out",),
        fixed: tuple[str, str] = ("", ""),
        system: str = SYSTEM,
        **env: str,
    ) -> StorePath:
        """Put a derivation into the store whose builder is a shell script."""
        builder = await self.add_text(
            f"{name}-builder", HEADER + script.encode() + b"\n", executable=True
        )
        bare = Derivation(
            outputs={each: Output("", *fixed) for each in outputs},
            input_derivations=dict.fromkeys(inputs, ("out",)),
            input_sources=(builder, *sources),
            system=system,
            builder=builder,
            args=(),
            env=env,
        )
        return await self.add_described(bare, name)

    async def add_described(self, bare: Derivation, name: str) -> StorePath:
        """Put a derivation into the store once its output paths are known."""
        drv = fill_output_paths(bare, name, self.directory, self._modulo)
        text = unparse_derivation(drv)
        path = await self.add_text(f"{name}.drv", text, drv.references)
        self._derivations[path] = parse_derivation(text, self.directory, path)
        return path

    def output(self, drv: StorePath, name: str = "out") -> StorePath:
        """Return the path of an output of a derivation of this yard."""
        return StorePath(self._derivations[drv].outputs[name].path)

    async def build(self, *targets: str, client: Client | None = None, **options: Any) -> None:
        """Build, for root unless told otherwise."""

        async def tell(event: BuildEvent) -> None:
            self.told.append(event)

        if client is None:
            client = Client(1, os.getpid(), 0, 0, "root", trusted=True)
        with self.temp_roots.session() as roots:
            scheduler = self.building.scheduler
            await scheduler.build(targets, BuildOptions(**options), client, roots, tell)

    async def failure(self, *targets: str, **options: Any) -> BuildFailed:
        """Build, expect it to fail, and return how it did."""
        with pytest.raises(BuildError):
            await self.build(*targets, **options)
        return next(event for event in reversed(self.told) if isinstance(event, BuildFailed))

    async def check(self, *targets: str) -> None:
        """Build again what is valid, and compare."""
        await self.build(*targets, mode=BuildMode.CHECK)

    def log(self) -> str:
        """Return what the builders printed."""
        pieces = [event.data for event in self.told if isinstance(event, BuildLog)]
        return b"".join(pieces).decode()

    def leftovers(self) -> list[str]:
        """Return what lies about that no finished build may leave."""
        marks = (".lock", ".chroot", ".discarded-")
        inside = [
            name for name in os.listdir(self.layout.store) if any(mark in name for mark in marks)
        ]
        return inside + os.listdir(self.base / "builds")

    async def _register(self, path: StorePath, references: frozenset[StorePath]) -> None:
        fd = os.open(self.layout.store, os.O_RDONLY)
        try:
            digest, size = nar_hash_of(fd, path.rpartition("/")[2])
        finally:
            os.close(fd)
        await self.database.register([NewItem(PathInfo(path, digest, size, references))])

    def _modulo(self, path: StorePath) -> bytes:
        return hash_derivation_modulo(self._derivations[path], self._modulo)


@dataclass(frozen=True)
class Helpers:
    """Helper processes, which must be started before the first thread."""

    locker: StartedHelper
    spawner: StartedHelper
    workers: list[StartedHelper]


def _settings(base: Path, **changes: Any) -> BuildSettings:
    present = tuple(each for each in HOST_DIRECTORIES if os.path.exists(each))
    chosen: dict[str, Any] = {
        "system": SYSTEM,
        "max_jobs": 2,
        "chroot_directories": present,
        "build_directory": str(base / "builds"),
        **changes,
    }
    return BuildSettings(**chosen)


@asynccontextmanager
async def _opened(
    base: Path,
    helpers: Helpers,
    settings: BuildSettings,
    beside: Yard | None,
    offload_program: str,
    environment: Mapping[str, str],
    guix: str,
    *,
    content_sources: Sequence[str],
) -> AsyncIterator[Yard]:
    layout = Layout.under(f"{base}/store", f"{base}/state")
    for each in (layout.store, layout.database, layout.gc_roots, layout.logs, f"{base}/builds"):
        os.makedirs(each, exist_ok=True)
    monitor = beside.monitor if beside else ProcessMonitor()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        if beside is None:
            await nursery.start(monitor.run)
        for helper in (helpers.locker, helpers.spawner, *helpers.workers):
            monitor.register(helper.pid)
        client = Locker(AsyncChannel(helpers.locker.socket, locker.messages.CODEC))
        nursery.start_soon(client.run)
        spawner = Spawner.from_helper(helpers.spawner, monitor)
        nursery.start_soon(spawner.run)
        workers = StoreWorkers.from_helpers(helpers.workers)
        nursery.start_soon(workers.run)
        database = await stack.enter_async_context(StoreDatabase.open(layout))
        roots = await stack.enter_async_context(TempRoots.open(layout, client))
        index = await stack.enter_async_context(ContentIndex.open(layout))
        history = await stack.enter_async_context(History.open(layout))
        sources = await stack.enter_async_context(ContentSources.open(layout, content_sources))
        directory = StoreDirectory(layout.store)
        building = make_building(
            Materials(
                layout=layout,
                directory=directory,
                settings=settings,
                database=database,
                content_index=index,
                history=history,
                locks=PathLocks(client),
                monitor=monitor,
                spawner=spawner,
                workers=workers,
                environment=environment,
                offload_program=offload_program,
                guix=guix,
                content_sources=sources,
            )
        )
        async with trio.open_nursery() as running:
            running.start_soon(history.run)
            await running.start(building.cleaner.run)
            await running.start(building.run)
            yield Yard(layout, database, index, sources, history, building, monitor, roots, base)
            running.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    for part in (client, spawner, workers):
        part.close()


OpenYard = Callable[..., AbstractAsyncContextManager[Yard]]


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory with a short name, which deletes itself whatever modes it holds."""
    path = Path(tempfile.mkdtemp(prefix="sd"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def open_yard(base: Path) -> Iterator[OpenYard]:
    """Opens a yard with any settings; all yards of a test share one store.

    A second one, `beside` the first, shares its process monitor too, since only one
    can reap in a process; in everything else they are like two daemons.
    """
    started: list[Helpers] = []

    def open_one(
        beside: Yard | None = None,
        offload_program: str = "",
        environment: Mapping[str, str] | None = None,
        guix: str = "",
        content_sources: Sequence[str] = (),
        **changes: Any,
    ) -> AbstractAsyncContextManager[Yard]:
        helpers = Helpers(start_helper("locker"), start_spawner(), [start_helper("store.worker")])
        started.append(helpers)
        settings = _settings(base, **changes)
        return _opened(
            base,
            helpers,
            settings,
            beside,
            offload_program,
            environment or {},
            guix,
            content_sources=content_sources,
        )

    yield open_one
    for helpers in started:
        for helper in (helpers.locker, helpers.spawner, *helpers.workers):
            helper.socket.close()
            _wait_gone(helper.pid)


def _wait_gone(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        # The process monitor of the yard was there first.
        return


@pytest.fixture
async def yard(open_yard: OpenYard) -> AsyncIterator[Yard]:
    """A yard with the usual settings."""
    async with open_yard() as opened:
        yield opened
