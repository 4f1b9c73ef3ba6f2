# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds that are offered to a build hook: a real program that speaks its protocol."""

import gzip
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from builder.errors import BuildError
from builder.events import BuildFailed, BuildStarted, BuildSucceeded, FailureKind, Message
from builder.offload import dispatch
from builder.options import BuildMode
from tests.builder.real.conftest import SYSTEM, OpenYard, Yard

STUB = Path(__file__).with_name("stub_hook.py")
SCRIPT = "echo built here; echo here >$out"


class Farm:
    """A yard with a build hook that follows a plan."""

    def __init__(self, yard: Yard, plan: Path) -> None:
        self.yard = yard
        self.plan = plan

    def told(self, key: str) -> list[Any]:
        """Return what the hooks were told of one kind, in order."""
        file = Path(f"{self.plan}.told")
        lines = file.read_text().splitlines() if file.exists() else []
        return [each[key] for each in map(json.loads, lines) if key in each]

    def go(self) -> None:
        """Let builds end that wait for it."""
        Path(f"{self.plan}.go").touch()

    def states(self) -> list[str]:
        """Return the state of each job."""
        return [job.state for job in self.yard.building.scheduler.snapshot()]

    def messages(self) -> list[str]:
        """Return what clients were told in words."""
        return [event.text for event in self.yard.told if isinstance(event, Message)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with trio.fail_after(10):
            while not condition():
                await trio.sleep(0.01)


OpenFarm = Callable[..., AbstractAsyncContextManager[Farm]]


@pytest.fixture
def open_farm(open_yard: OpenYard, base: Path) -> OpenFarm:
    """Opens a yard whose hook follows a plan, a step for each request."""

    @asynccontextmanager
    async def open_one(*steps: str, **changes: Any) -> AsyncIterator[Farm]:
        program, plan = base / "guix", base / "plan"
        program.write_text(f"#!{sys.executable} -I\n{STUB.read_text()}")
        program.chmod(0o755)
        plan.write_text("".join(f"{step}\n" for step in steps))
        environment = {"STUB_PLAN": str(plan), "GUIX_DATABASE_DIRECTORY": f"{base}/state/db"}
        async with open_yard(
            offload_program=str(program), environment=environment, **changes
        ) as yard:
            yield Farm(yard, plan)

    return open_one


async def test_an_accepted_build_is_done_by_the_hook(open_farm: OpenFarm):
    """It gets the closures of inputs and derivation, and the outputs that are missing."""
    async with open_farm("accept build") as farm:
        yard = farm.yard
        source = await yard.add_text("source", b"source")
        drv = await yard.add_derivation(
            SCRIPT, sources=[source], outputs=("out", "doc"), requiredSystemFeatures="kvm big"
        )
        await yard.build(drv, timeout=77, max_silent_time=5, print_build_trace=True)
        outputs = sorted([yard.output(drv), yard.output(drv, "doc")])
        assert all(map(yard.database.is_valid, outputs))
        assert Path(outputs[0]).read_text() == f"built far away from {drv}\n"
        assert farm.told("arguments") == [[SYSTEM, "5", "1", "77"]]
        assert (farm.told("here"), farm.told("drv")) == (["1"], [drv])
        assert (farm.told("system"), farm.told("features")) == ([SYSTEM], ["kvm,big"])
        [inputs] = farm.told("inputs")
        assert {source, drv} < set(inputs)
        assert farm.told("outputs") == [outputs]
        assert yard.leftovers() == []


async def test_what_hook_and_builder_print_reaches_clients_and_the_builders_the_log(
    open_farm: OpenFarm,
):
    """The hook's own words are shown, but not kept."""
    async with open_farm("accept build") as farm:
        drv = await farm.yard.add_derivation(SCRIPT)
        await farm.yard.build(drv)
        line = f"building {os.path.basename(drv)} far away\n"
        assert farm.messages() == ["looking for a machine"]
        assert set(farm.yard.log().splitlines()) == {line.strip(), f"@ build-remote {drv} far-away"}
        [started] = [event for event in farm.yard.told if isinstance(event, BuildStarted)]
        assert started.pid in farm.told("pid")
        assert read_log(started.log_file) == line.encode()
        assert isinstance(farm.yard.told[-1], BuildSucceeded)


def read_log(path: str) -> bytes:
    """Return what a compressed log holds."""
    with gzip.open(path) as file:
        return file.read()


@pytest.mark.parametrize(
    "attributes", [{}, {"requiredSystemFeatures": "two words"}, {"preferLocalBuild": "0"}]
)
async def test_what_is_declined_is_built_here_by_the_same_hook_for_all(
    open_farm: OpenFarm, attributes: dict[str, str]
):
    """One process answers for all derivations."""
    async with open_farm("decline") as farm:
        drvs = [await farm.yard.add_derivation(SCRIPT, name=n, **attributes) for n in ("a", "b")]
        await farm.yard.build(*drvs)
        assert farm.yard.log() == "built here\n" * 2
        assert len(farm.told("pid")) == 1
        assert sorted(farm.told("drv")) == sorted(drvs)


@pytest.mark.parametrize(
    ("attributes", "options"),
    [
        ({"preferLocalBuild": "1"}, {}),
        ({}, {"offload": False}),
        ({"requiredSystemFeatures": "wicked/feature"}, {}),
    ],
)
async def test_some_builds_are_never_offered(
    open_farm: OpenFarm, attributes: dict[str, str], options: dict[str, Any]
):
    """Those that prefer it here, of clients that want it so, or that no request can describe."""
    async with open_farm("accept build") as farm:
        drv = await farm.yard.add_derivation(SCRIPT, **attributes)
        await farm.yard.build(drv, **options)
        assert farm.yard.log() == "built here\n"
        assert farm.told("drv") == []


async def test_checks_and_repairs_are_done_here(open_farm: OpenFarm):
    """Even with no slots for other builds."""
    async with open_farm("accept build", max_jobs=0) as farm:
        drv = await farm.yard.add_derivation(SCRIPT, preferLocalBuild="1")
        await farm.yard.build(drv)
        await farm.yard.build(drv, mode=BuildMode.CHECK)
        await farm.yard.build(drv, mode=BuildMode.REPAIR)
        assert farm.told("drv") == []


async def test_another_system_preferring_to_be_local_is_offered(open_farm: OpenFarm):
    """It cannot have what it prefers."""
    async with open_farm("accept build") as farm:
        drv = await farm.yard.add_derivation(SCRIPT, system="mips64el-linux", preferLocalBuild="1")
        await farm.yard.build(drv)
        assert farm.yard.database.is_valid(farm.yard.output(drv))


async def test_a_postponed_build_waits_and_is_offered_again(
    open_farm: OpenFarm, monkeypatch: pytest.MonkeyPatch
):
    """After a while at the latest; its locks are free meanwhile, its slot as well."""
    monkeypatch.setattr(dispatch, "POSTPONED_SECONDS", 0.05)
    async with open_farm("postpone", "postpone", "accept build") as farm:
        drv = await farm.yard.add_derivation(SCRIPT)
        await farm.yard.build(drv)
        assert farm.told("drv") == [drv] * 3
        assert len(farm.told("pid")) == 1
        assert farm.yard.building.slots.statistics().taken == 0


async def test_a_build_that_ends_has_the_next_offered_at_once(open_farm: OpenFarm):
    """And only the head of the line asks, however many wait."""
    async with open_farm("postpone", "decline", "accept build") as farm:
        yard = farm.yard
        waiting = await yard.add_derivation(SCRIPT, name="waiting", requiredSystemFeatures="x")
        second = await yard.add_derivation(SCRIPT, name="second", requiredSystemFeatures="x")
        other = await yard.add_derivation(SCRIPT, name="other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.build, waiting)
            await farm.until(lambda: len(farm.told("drv")) == 1)
            nursery.start_soon(yard.build, second)
            await farm.until(lambda: farm.states() == ["waiting-for-machine"] * 2)
            with trio.fail_after(3):
                await yard.build(other)
        assert farm.told("drv") == [waiting, other, waiting, second]


async def test_an_offloaded_build_is_shown_as_such_and_takes_no_slot(open_farm: OpenFarm):
    """Several at once, each with a hook of its own."""
    async with open_farm("accept wait", max_jobs=1) as farm:
        yard = farm.yard
        drvs = [await yard.add_derivation(SCRIPT, name=name) for name in "abc"]
        local = await yard.add_derivation(SCRIPT, name="local", preferLocalBuild="1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.build, *drvs)
            await farm.until(lambda: farm.states() == ["offloaded"] * 3)
            await yard.build(local)
            assert len(set(farm.told("pid"))) == 3
            farm.go()


async def test_without_slots_what_is_declined_cannot_be_built(open_farm: OpenFarm):
    """Whether the daemon or the client wants none built here."""
    async with open_farm("decline", max_jobs=0) as farm:
        drv = await farm.yard.add_derivation(SCRIPT)
        failure = await farm.yard.failure(drv)
        assert failure.message.startswith("unable to start any build; either increase")
        assert farm.told("here") == ["0"]
    async with open_farm("decline") as farm:
        assert "unable to start" in (await farm.yard.failure(drv, max_jobs=0)).message


@pytest.mark.parametrize(
    ("step", "kind", "status", "trace"),
    [
        ("accept fail 100", FailureKind.PERMANENT, 100, 1),
        ("accept fail 101", FailureKind.TIMED_OUT, 101, 1),
        ("accept fail 1", FailureKind.HOOK, 1, 256),
        ("accept signal 15", FailureKind.HOOK, 1, 15),
        ("accept nothing", FailureKind.HOOK, 1, 0),
    ],
)
async def test_failures_are_told_apart_by_exit_code(
    open_farm: OpenFarm, step: str, kind: FailureKind, status: int, trace: int
):
    """A permanent one is remembered, others are not."""
    async with open_farm(step, cache_failures=True) as farm:
        drv = await farm.yard.add_derivation(SCRIPT)
        with pytest.raises(BuildError) as caught:
            await farm.yard.build(drv)
        assert caught.value.status == status
        [failed] = [event for event in farm.yard.told if isinstance(event, BuildFailed)]
        assert (failed.kind, failed.status, failed.remote) == (kind, trace, True)
        assert failed.message.startswith(f"builder for `{drv}' failed ")
        output = farm.yard.output(drv)
        assert farm.yard.database.has_failed(output) is (kind is FailureKind.PERMANENT)
        assert farm.yard.leftovers() == []


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("die", "ended without an answer"),
        ("nonsense", "bad hook reply `nonsense'"),
        ("decline-permanently", "bad hook reply `decline-permanently'"),
    ],
)
async def test_a_hook_that_gives_no_proper_answer_fails_the_build(
    open_farm: OpenFarm, step: str, message: str
):
    """What it printed is shown; building here would hide that the farm is broken."""
    async with open_farm(step) as farm:
        drv = await farm.yard.add_derivation(SCRIPT)
        assert message in (await farm.yard.failure(drv)).message
        assert farm.messages()[0] == "looking for a machine"


async def test_a_hook_lost_while_it_had_nothing_to_do_is_replaced(open_farm: OpenFarm):
    """Such as when guix was upgraded."""
    async with open_farm("decline", "die", "decline") as farm:
        for name in "ab":
            await farm.yard.build(await farm.yard.add_derivation(SCRIPT, name=name))
        assert len(set(farm.told("pid"))) == 2


async def test_a_program_that_is_missing_leaves_builds_here(open_farm: OpenFarm):
    """Nobody set up a farm then."""
    async with open_farm("accept build") as farm:
        farm.plan.with_name("guix").unlink()
        drv = await farm.yard.add_derivation(SCRIPT)
        await farm.yard.build(drv)
        assert farm.yard.log() == "built here\n"


@pytest.mark.parametrize("options", [{"timeout": 1}, {"max_silent_time": 1}])
async def test_limits_hold_for_offloaded_builds(open_farm: OpenFarm, options: dict[str, int]):
    """The hook and its processes are ended."""
    async with open_farm("accept hang") as farm:
        drv = await farm.yard.add_derivation(SCRIPT)
        failure = await farm.yard.failure(drv, **options)
        assert "timed out after 1 seconds" in failure.message
        assert not failure.remote
        await farm.until(lambda: not processes_of_group(farm.told("hanging")[0]))


async def test_a_log_that_grows_too_long_ends_the_build(open_farm: OpenFarm):
    """As with a builder of this machine."""
    async with open_farm("accept chat 1000", max_log_size=100_000) as farm:
        drv = await farm.yard.add_derivation(SCRIPT)
        failure = await farm.yard.failure(drv)
        assert failure.kind is FailureKind.LOG_LIMIT


@pytest.mark.parametrize("step", ["hang", "accept hang"])
async def test_a_cancelled_build_takes_its_hook_along(open_farm: OpenFarm, step: str):
    """With all processes that it started, whether it had answered or not."""
    async with open_farm(step) as farm:
        drv = await farm.yard.add_derivation(SCRIPT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(farm.yard.build, drv)
            await farm.until(lambda: bool(farm.told("hanging")))
            nursery.cancel_scope.cancel()
        await farm.until(lambda: not processes_of_group(farm.told("hanging")[0]))
        await farm.until(lambda: farm.yard.leftovers() == [])


def processes_of_group(group: int) -> list[str]:
    """Return the living processes of a process group."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, its = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its) == group and state != "Z":
            found.append(pid)
    return found
