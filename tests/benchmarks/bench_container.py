# SPDX-License-Identifier: GPL-3.0-or-later
"""From the request for a container to the reaping of its only process.

The floor is a bare container; see `bare_container.py`.

Run it on a quiet machine: ``python tests/benchmarks/bench_container.py``.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from builder.container import (
    DEVICES,
    Bind,
    Command,
    Container,
    Devices,
    Directory,
    File,
    HostIdentity,
    Operation,
    Proc,
    PseudoTerminals,
    SharedMemory,
    arrange,
)
from builder.spawner.client import Spawner, start_spawner
from reaper.monitor import ProcessMonitor

ROUNDS = 200

TRUE_SOURCE = """
void _start(void) {
#if defined(__x86_64__)
    __asm__ volatile("mov $60, %eax; xor %edi, %edi; syscall");
#elif defined(__aarch64__)
    __asm__ volatile("mov x8, #93; mov x0, #0; svc #0");
#endif
}
"""


def make_true(directory: Path) -> Path:
    """Compile a static program that exits with 0 and does nothing else."""
    source, program = directory / "true.c", directory / "true"
    source.write_text(TRUE_SOURCE)
    compiler = shutil.which("cc") or "gcc"
    options = ["-static", "-nostdlib", "-O2", "-o", str(program), str(source)]
    subprocess.run([compiler, *options], check=True)
    return program


def description(program: Path, extra: int = 0) -> Container:
    """Give a container as builds have it, with more read-only inputs if wanted."""
    store = "/gnu/store"
    nodes = (*DEVICES, "kvm") if Path("/dev/kvm").exists() else DEVICES
    operations: list[Operation] = [
        Devices(nodes=nodes),
        SharedMemory(),
        PseudoTerminals(),
        Proc(),
        Directory("/tmp", 0o1777),
        File("/etc/passwd", b"nixbld:x:30001:30000:Nix build user:/:/noshell\n"),
        File("/etc/group", b"nixbld:!:30000:\n"),
        File("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n"),
        Bind(str(program.parent), f"{store}/bin"),
    ]
    operations += [Bind("/usr", f"{store}/input-{i}") for i in range(extra)]
    command = Command(
        f"{store}/bin/{program.name}".encode(), (b"true",), ((b"HOME", b"/"),), beneath=store
    )
    return Container(command, HostIdentity(30001, 30000), operations=arrange(operations))


async def _one(spawner: Spawner, container: Container) -> float:
    start = time.perf_counter()
    spawned = await spawner.spawn(container, stdout_fd=2)
    await spawned.setup
    status = await spawned.process.wait()
    assert status.succeeded, status.describe()
    return (time.perf_counter() - start) * 1000


async def _spawner_times(program: Path) -> dict[str, float]:
    helper = start_spawner()
    monitor = ProcessMonitor()
    figures = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        spawner = Spawner.from_helper(helper, monitor)
        await nursery.start(spawner.run)
        for name, extra in (("spawner", 0), ("spawner, 50 more binds", 50)):
            container = description(program, extra)
            for _ in range(10):
                await _one(spawner, container)
            times = [await _one(spawner, container) for _ in range(ROUNDS)]
            figures[f"{name}, ms"] = statistics.median(times)
        container = description(program)
        figures["spawner, rested, ms"] = await _rested(spawner, container)
        figures["spawner, two at once, ms each"] = await _two_at_once(spawner, container)
        nursery.cancel_scope.cancel()
    spawner.close()
    return figures


async def _rested(spawner: Spawner, container: Container) -> float:
    """Give the time where the spawner has had time to prepare, as between builds of a chain."""
    times = []
    for _ in range(ROUNDS // 2):
        await trio.sleep(0.005)
        times.append(await _one(spawner, container))
    return statistics.median(times)


async def _two_at_once(spawner: Spawner, container: Container) -> float:
    async def several() -> None:
        for _ in range(ROUNDS // 2):
            await _one(spawner, container)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(several)
        nursery.start_soon(several)
    return (time.perf_counter() - start) * 1000 / ROUNDS


def _floor(root: Path, program: Path) -> float:
    """Measure a bare container in a process of its own, since a fork pays for what it copies."""
    script = Path(__file__).with_name("bare_container.py")
    command = [sys.executable, str(script), str(root), str(program), str(ROUNDS)]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def measure() -> dict[str, float]:
    """Measure floor and spawner in turns; times are medians in milliseconds."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        root = directory / "root"
        root.mkdir()
        (directory / "bin").mkdir()
        program = make_true(directory / "bin")
        figures = trio.run(_spawner_times, program)
        figures["floor, ms"] = _floor(root, program)
        figures["ratio"] = figures["spawner, ms"] / figures["floor, ms"]
        figures["rested ratio"] = figures["spawner, rested, ms"] / figures["floor, ms"]
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))  # noqa: T201 - the benchmark's output
