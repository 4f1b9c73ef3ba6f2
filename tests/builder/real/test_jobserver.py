# SPDX-License-Identifier: GPL-3.0-or-later
"""Job tokens that real builds, as a rule GNU make, take from fifos in their containers."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from builder.events import BuildLog, BuildStarted, FailureKind
from builder.jobserver.pool import Jobserver, JobserverStatistics
from store.paths import StorePath

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

TOKENS = 4
MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(MAKE is None, reason="there is no make")

MAKEFILE = """all: $(addprefix job,$(shell seq {count}))
job%:
\t@echo begin $$(date +%s%N); sleep {seconds}; echo end $$(date +%s%N)
"""
# What docs/jobserver.md tells those to do whose make cannot open a fifo by its name.
BY_NUMBER = 'exec 9<>/etc/jobserver; export MAKEFLAGS="-j --jobserver-auth=9,9"\n'


def make_script(count: int, seconds: float) -> str:
    """Write a script that has make do so many jobs of some seconds."""
    version = subprocess.run(["make", "--version"], capture_output=True, text=True, check=True)
    number = re.search(r"GNU Make (\d+)\.(\d+)", version.stdout)
    assert number
    old = (int(number[1]), int(number[2])) < (4, 4)
    makefile = MAKEFILE.format(count=count, seconds=seconds)
    return f"{BY_NUMBER if old else ''}cat > Makefile <<'.'\n{makefile}.\nmake\ntouch $out"


def most_at_once(text: str) -> int:
    """Count the jobs that ran at the same time, by what they have printed."""
    found = re.findall(r"(begin|end) (\d+)", text)
    running = most = 0
    for _, word in sorted((int(moment), word) for word, moment in found):
        running += 1 if word == "begin" else -1
        most = max(most, running)
    assert running == 0
    return most


def log_of(yard: "Yard", drv: StorePath) -> str:
    """Return what one builder printed."""
    pieces = [e.data for e in yard.told if isinstance(e, BuildLog) and e.drv == drv]
    return b"".join(pieces).decode()


@asynccontextmanager
async def running(yard: "Yard", *drvs: StorePath) -> AsyncIterator[None]:
    """Build while inside; what runs then is cancelled."""
    async with trio.open_nursery() as nursery:
        for drv in drvs:
            nursery.start_soon(yard.build, drv)
        yield
        nursery.cancel_scope.cancel()


def server_of(yard: "Yard") -> Jobserver:
    """Return the jobserver, which there must be."""
    server = yard.building.jobserver
    assert server is not None
    return server


async def until(
    yard: "Yard", condition: Callable[[JobserverStatistics], object]
) -> JobserverStatistics:
    """Wait until the tokens stand as they should."""
    with trio.fail_after(20):
        while not condition(found := server_of(yard).statistics()):
            await trio.sleep(0.01)
    return found


@pytest.fixture
async def shared(open_yard: "OpenYard") -> AsyncIterator["Yard"]:
    """A yard whose builds share tokens."""
    async with open_yard(max_jobs=3, job_tokens=TOKENS) as yard:
        yield yard


@needs_make
async def test_a_lone_build_uses_all_tokens(shared: "Yard"):
    """And no more."""
    drv = await shared.add_derivation(make_script(12, 0.15))
    await shared.build(drv)
    assert most_at_once(shared.log()) == TOKENS
    assert server_of(shared).statistics() == JobserverStatistics(TOKENS, 0, 0, 0, TOKENS)


@needs_make
async def test_builds_beside_each_other_never_exceed_the_tokens(shared: "Yard"):
    """And each gets some of what the other gives back."""
    drvs = [await shared.add_derivation(make_script(24, 0.1), name) for name in ("one", "other")]
    async with trio.open_nursery() as nursery:
        for drv in drvs:
            nursery.start_soon(shared.build, drv)
    assert most_at_once(shared.log()) == TOKENS
    for drv in drvs:
        assert most_at_once(log_of(shared, drv)) > 1


@needs_make
async def test_a_build_that_starts_later_gets_its_share(shared: "Yard"):
    """Make looks what to start next after it has given a token back; until then it is caught."""
    first = await shared.add_derivation(make_script(4000, 0.05), "first")
    second = await shared.add_derivation("head -c 1 /etc/jobserver > $out", "second")
    async with running(shared, first):
        await until(shared, lambda s: s.lent - s.unread == TOKENS - 1)
        with trio.fail_after(20):
            await shared.build(second)


READ_ALL = f"exec 9<>/etc/jobserver; head -c {TOKENS - 1} <&9 | wc -c; echo ready; "


@pytest.mark.parametrize(
    ("script", "killed"),
    [
        (f"{READ_ALL} sleep 100", False),
        (f"{READ_ALL} sleep 100", True),
        (f"{READ_ALL} (setsid sleep 100 > /dev/null 2>&1 &) ; exit 1", False),
        ("exec 9<>/etc/jobserver; head -c 500 /dev/zero >&9; echo ready; sleep 100", False),
    ],
    ids=["cancelled", "killed", "left a process", "written to"],
)
async def test_what_a_build_had_comes_back_whatever_it_did(
    shared: "Yard", script: str, killed: bool
):
    """Swallowed or made up: the pool is as before."""
    drv = await shared.add_derivation(script)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shared.failure, drv)
            while "ready" not in shared.log():
                await trio.sleep(0.01)
            if killed:
                [started] = [event for event in shared.told if isinstance(event, BuildStarted)]
                os.kill(started.pid, signal.SIGKILL)
            else:
                nursery.cancel_scope.cancel()
    await until(shared, lambda s: s == JobserverStatistics(TOKENS, 0, 0, 0, TOKENS))


@needs_make
async def test_tokens_that_a_builder_makes_are_of_no_use_to_others(shared: "Yard"):
    """Another build never runs more jobs than there are honest tokens."""
    forger = await shared.add_derivation(
        "exec 9<>/etc/jobserver; while :; do head -c 50 /dev/zero >&9; sleep 0.02; done", "forger"
    )
    honest = await shared.add_derivation(make_script(30, 0.05), "honest")
    async with running(shared, forger):
        await until(shared, lambda s: s.builds == 1)
        await shared.build(honest)
        found = server_of(shared).statistics()
        assert found.lent + found.builds + found.free == TOKENS
    assert 1 < most_at_once(log_of(shared, honest)) < TOKENS


async def test_a_build_without_token_waits_only_so_long(
    shared: "Yard", monkeypatch: pytest.MonkeyPatch
):
    """Whoever has the tokens may keep them; their next owner is known."""
    monkeypatch.setattr("builder.jobserver.pool.PATIENCE", 0.1)
    greedy = await shared.add_derivation(f"{READ_ALL} sleep 100", "greedy")
    modest = await shared.add_derivation("touch $out", "modest")
    async with running(shared, greedy):
        await until(shared, lambda s: s.lent - s.unread == TOKENS - 1)
        await shared.build(modest)
        found = server_of(shared).statistics()
        assert (found.lent, found.free) == (TOKENS - 1, 0)
    await until(shared, lambda s: s.free == TOKENS)


SHOW = 'echo "[${MAKEFLAGS-none}] $NIX_BUILD_CORES $(ls /etc)"; touch $out'


@pytest.mark.parametrize(
    ("for_all", "env", "wanted"),
    [
        (True, {"jobserver": "0"}, False),
        (True, {"MAKEFLAGS": "-k"}, False),
        (False, {}, False),
        (False, {"jobserver": "1"}, True),
    ],
)
async def test_a_derivation_decides_before_the_daemon(
    open_yard: "OpenYard", for_all: bool, env: dict[str, str], wanted: bool
):
    """By its attribute, or by flags of its own."""
    async with open_yard(job_tokens=2, jobserver_for_all=for_all) as yard:
        await yard.build(await yard.add_derivation(SHOW, **env))
        assert ("-j --jobserver-auth=fifo:/etc/jobserver" in yard.log()) is wanted
        assert ("jobserver\n" in yard.log()) is wanted


async def test_what_a_derivation_asks_must_make_sense(shared: "Yard"):
    """It is told what it may say."""
    failure = await shared.failure(await shared.add_derivation("touch $out", jobserver="yes"))
    assert failure.message.startswith("attribute `jobserver' of the derivation must be 0 or 1")
    assert failure.kind is FailureKind.INPUT_REJECTED


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("make-boot0-4.2.1", False), ("make-4.4.1", True)],
)
async def test_a_make_that_would_end_with_an_error_is_told_nothing(
    shared: "Yard", name: str, wanted: bool
):
    """Between 4.2 and 4.3 it takes what it cannot read for a mistake."""
    make = await shared.add_text(name, b"")
    await shared.build(await shared.add_derivation(SHOW, sources=[make]))
    assert ("--jobserver-auth" in shared.log()) is wanted


async def test_without_the_option_there_is_nothing(yard: "Yard"):
    """Neither a variable nor a fifo."""
    await yard.build(await yard.add_derivation(SHOW))
    assert "[none]" in yard.log()
    assert yard.building.jobserver is None
    [started] = [event for event in yard.told if isinstance(event, BuildStarted)]
    assert not os.path.exists(f"/proc/{started.pid}")
