# SPDX-License-Identifier: GPL-3.0-or-later
"""What builders read is locked for as long as they run, with as few descriptors as ever."""

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from builder.events import BuildLog
from store import filelocks
from store.database import NewItem
from store.info import PathInfo
from store.paths import StorePath

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

PRESENT = tuple(each for each in ("/bin", "/lib", "/lib64", "/usr") if os.path.exists(each))
GATED = "echo running; read x < /gate/{}; touch $out"


@pytest.fixture
def gates(base: Path) -> dict[str, Any]:
    """Settings with a directory of pipes that builders wait at."""
    place = base / "gate"
    place.mkdir()
    for name in ("one", "two"):
        os.mkfifo(place / name)
        (place / name).chmod(0o666)
    return {"chroot_directories": (*PRESENT, f"/gate={place}")}


def is_locked(path: str) -> bool:
    """Tell whether a collector would see that an item is used."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return filelocks.is_locked(fd)
    finally:
        os.close(fd)


def descriptors() -> int:
    """Count this process's open files."""
    return len(os.listdir("/proc/self/fd"))


async def until_locked(yard: "Yard", count: int) -> int:
    """Wait until so many items are locked; give the most descriptors that were open."""
    most = 0
    with trio.fail_after(12):
        while yard.building.input_locks.count != count:
            most = max(most, descriptors())
            await trio.sleep(0.001)
    return most


async def running(yard: "Yard", builds: int) -> None:
    """Wait until so many builders have said that they run."""
    with trio.fail_after(30):
        while yard.log().count("running") < builds:
            await trio.sleep(0.005)


def open_gate(base: Path, name: str) -> None:
    """Let a builder end."""
    (base / "gate" / name).write_text("\n")


async def test_inputs_are_locked_while_a_builder_runs(
    open_yard: "OpenYard", gates: dict[str, Any], base: Path
):
    """A lock that two builds share lasts as long as either; files and directories alike."""
    async with open_yard(**gates) as yard:
        shared = await yard.add_text("shared", b"x")
        own = await yard.add_text("own", b"x")
        one = await yard.add_derivation(GATED.format("one"), "one", sources=[shared, own])
        two = await yard.add_derivation(GATED.format("two"), "two", sources=[shared])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.build, one)
            nursery.start_soon(yard.build, two)
            await running(yard, 2)
            await until_locked(yard, 4)  # with the two builders
            assert is_locked(shared)
            assert is_locked(own)
            await trio.to_thread.run_sync(open_gate, base, "one")
            await until_locked(yard, 2)
            assert is_locked(shared)
            await trio.to_thread.run_sync(open_gate, base, "two")
        await until_locked(yard, 0)
        with trio.fail_after(5):
            while is_locked(shared):  # the locker has still to be through with it
                await trio.sleep(0.001)


async def add_many(yard: "Yard", count: int) -> list[StorePath]:
    """Put many items into the store."""
    infos = []
    for number in range(count):
        path = yard.directory.text_path(f"input-{number}", number.to_bytes(32, "big"), frozenset())
        Path(path).write_text(f"{number}\n")
        infos.append(path)
    template = yard.database.path_info(await yard.add_text("template", b"0\n"))
    await yard.database.register(
        [NewItem(PathInfo(p, template.nar_hash, 120, frozenset())) for p in infos]
    )
    return infos


@pytest.mark.slow
async def test_ten_thousand_locks_take_no_descriptors(
    open_yard: "OpenYard", gates: dict[str, Any], base: Path
):
    """They are the locker's; here no more than a few batches are ever open."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 14_000:
        pytest.skip("the locker may not have as many files open")
    async with open_yard(**gates) as yard:
        inputs = await add_many(yard, 10_000)
        drv = await yard.add_derivation(GATED.format("one"), "many", sources=inputs)
        before = descriptors()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.build, drv)
            most = await until_locked(yard, 10_001)
            during = descriptors()
            assert all(map(is_locked, inputs[:: len(inputs) // 10]))
            await running(yard, 1)
            await trio.to_thread.run_sync(open_gate, base, "one")
        await until_locked(yard, 0)
        assert during - before < 20
        assert most - before < 400
        assert descriptors() - before < 5
        assert any(isinstance(event, BuildLog) for event in yard.told)
