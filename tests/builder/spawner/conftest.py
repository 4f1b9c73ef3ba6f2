# SPDX-License-Identifier: GPL-3.0-or-later
"""A running spawner, and containers to start with it."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from builder.container import (
    Bind,
    Command,
    Container,
    Devices,
    Directory,
    HostIdentity,
    Identity,
    Operation,
    Proc,
    PseudoTerminals,
    SharedMemory,
    arrange,
)
from builder.spawner.client import SetupError, SpawnedProcess, Spawner, start_spawner
from reaper.monitor import ProcessMonitor
from reaper.process import ExitStatus, Process
from tests.builder.spawner.processes import spawners

BUILDER = HostIdentity(30001, 30000)
SYSTEM = ("/usr", "/bin", "/lib", "/lib64")
PATH = ((b"PATH", b"/usr/bin:/bin"),)


@dataclass(frozen=True)
class Outcome:
    """How a container ended, and what it wrote."""

    status: ExitStatus
    output: str

    @property
    def lines(self) -> list[str]:
        """The output, line by line."""
        return self.output.splitlines()

    @property
    def numbers(self) -> dict[str, int]:
        """The output of the probe: names and numbers."""
        return {name: int(number) for name, number in map(str.split, self.lines)}


def _container(
    *arguments: str,
    operations: tuple[Operation, ...] = (),
    identity: Identity = BUILDER,
    **changes: object,
) -> Container:
    """Describe a container with the host's programs, a writable /tmp and what is added."""
    usual: tuple[Operation, ...] = (
        Devices(),
        SharedMemory(),
        PseudoTerminals(),
        Proc(),
        Directory("/tmp", 0o1777),
        *(Bind(path, path, optional=True) for path in SYSTEM),
    )
    command = Command(
        arguments[0].encode(), tuple(i.encode() for i in arguments), PATH, directory="/tmp"
    )
    made = Container(command, identity, operations=arrange((*usual, *operations)))
    return replace(made, **changes)  # type: ignore[arg-type]


def _shell(script: str, **changes: object) -> Container:
    """Describe a container that runs a shell script."""
    return _container("/bin/sh", "-c", script, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Workbench:
    """A spawner at work."""

    spawner: Spawner
    monitor: ProcessMonitor
    helper: Process

    async def run(self, description: Container, stdin: int | None = None) -> Outcome:
        """Run a container to its end."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        async with trio.lowlevel.FdStream(reader) as stream:
            try:
                spawned = await self.spawner.spawn(description, stdout_fd=writer, stdin_fd=stdin)
            finally:
                os.close(writer)
            try:
                await spawned.setup
            except SetupError:
                await spawned.process.wait()  # it ends by itself, and leaves nothing
                raise
            output = b"".join([chunk async for chunk in stream])
        return Outcome(await spawned.process.wait(), output.decode())

    async def start(self, description: Container) -> SpawnedProcess:
        """Start a container and wait until it has written "ready"."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        async with trio.lowlevel.FdStream(reader) as stream:
            try:
                spawned = await self.spawner.spawn(description, stdout_fd=writer)
            finally:
                os.close(writer)
            await spawned.setup
            text = b""
            while text != b"ready\n":
                chunk = await stream.receive_some()
                assert chunk, f"it ended after {text!r}"
                text += chunk
        return spawned


Describe = Callable[..., Container]


@pytest.fixture
def container() -> Describe:
    """Describes a container by its arguments; see `_container`."""
    return _container


@pytest.fixture
def shell() -> Describe:
    """Describes a container that runs a shell script."""
    return _shell


@pytest.fixture
async def bench(nursery: trio.Nursery) -> AsyncIterator[Workbench]:
    """A spawner, which must be gone in the end."""
    async with _working(nursery, doubled=False) as workbench:
        yield workbench


@pytest.fixture
async def doubled(nursery: trio.Nursery) -> AsyncIterator[Workbench]:
    """A spawner that becomes two processes, which must be gone in the end."""
    async with _working(nursery, doubled=True) as workbench:
        yield workbench


@asynccontextmanager
async def _working(nursery: trio.Nursery, *, doubled: bool) -> AsyncIterator[Workbench]:
    helper = start_spawner(doubled=doubled)
    monitor = ProcessMonitor()
    await nursery.start(monitor.run)
    process = monitor.register(helper.pid)
    spawner = Spawner.from_helper(helper, monitor)
    async with trio.open_nursery() as serving:
        await serving.start(spawner.run)
        yield Workbench(spawner, monitor, process)
        spawner.close()
    with trio.fail_after(10):
        await process.wait()
        while spawners():  # one may have come into being at the last moment
            await trio.sleep(0.01)


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Bind:
    """The program of probe.c, bound into containers as /probe/probe."""
    directory = tmp_path_factory.mktemp("probe")
    directory.chmod(0o755)
    source = Path(__file__).with_name("probe.c")
    compiler = shutil.which("cc")
    assert compiler, "the tests of containers need a C compiler"
    options = ["-static", "-no-pie", "-O1", "-o", str(directory / "probe"), str(source)]
    subprocess.run([compiler, *options], check=True)
    return Bind(str(directory), "/probe")
