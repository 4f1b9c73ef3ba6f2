# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs are shared by those who want them, and end with the last of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from builder.errors import BuildError
from builder.events import BuildEvent, BuildFailed, BuildLog, BuildStarted, FailureKind
from builder.options import BuildOptions, Client
from builder.planning.planner import Planner
from builder.scheduling.jobs import Job
from builder.scheduling.scheduler import Scheduler
from store.derivations import Derivation
from store.paths import StoreDirectory, StorePath
from tests.builder.loading import loading

if TYPE_CHECKING:
    from tests.builder.conftest import MakeDerivation, MakePath


@dataclass
class Workbench:
    """A realiser whose builds are handed over and end when the test says so."""

    valid: set[StorePath] = field(default_factory=set)
    running: dict[StorePath, Job] = field(default_factory=dict)
    started: list[StorePath] = field(default_factory=list)
    made: dict[StorePath, trio.Event] = field(default_factory=dict)
    ended: dict[StorePath, trio.Event] = field(default_factory=dict)
    failing: dict[StorePath, FailureKind] = field(default_factory=dict)

    def is_valid(self, path: StorePath) -> bool:
        """Tell whether an item is valid."""
        return path in self.valid

    @contextmanager
    def wanting(self, _options: BuildOptions) -> Iterator[None]:
        """Take no notice."""
        yield

    async def realise(self, job: Job) -> None:
        """Wait until the test ends this build."""
        self.started.append(job.path)
        self.running[job.path] = job
        try:
            if job.path in self.made:
                await self.made[job.path].wait()
                self.valid.update(job.derivation.output_paths)
                await job.hand_over()
            await self.ended.setdefault(job.path, trio.Event()).wait()
        finally:
            del self.running[job.path]
        if job.path in self.failing:
            raise BuildError(f"`{job.path}' failed", self.failing[job.path])
        self.valid.update(job.derivation.output_paths)

    def end(self, path: StorePath) -> None:
        """Let a build end."""
        self.ended.setdefault(path, trio.Event()).set()


@dataclass
class World:
    """A scheduler, its workbench, and clients that keep what they are told."""

    scheduler: Scheduler
    bench: Workbench
    told: dict[int, list[BuildEvent]] = field(default_factory=dict)

    async def build(self, session: int, *targets: str, **options: bool) -> None:
        """Build as a client."""
        told = self.told.setdefault(session, [])

        async def tell(event: BuildEvent) -> None:
            told.append(event)

        client = Client(session, 1, 0, 0, "root", trusted=True)
        await self.scheduler.build(targets, BuildOptions(**options), client, Roots(), tell)

    async def fail(self, session: int, *targets: str, **options: bool) -> None:
        """Build as a client, and expect that it fails."""
        with pytest.raises(BuildError):
            await self.build(session, *targets, **options)


class Roots:
    """Keeps nothing."""

    async def add(self, *paths: StorePath) -> None:
        """Take no notice."""


@asynccontextmanager
async def running(derivations: dict[StorePath, Derivation]) -> AsyncIterator[World]:
    """Run a scheduler over these derivations, all of them valid."""
    bench = Workbench(valid=set(derivations))
    planner = Planner(bench, loading(derivations))
    scheduler = Scheduler(StoreDirectory("/gnu/store"), planner, bench)
    async with trio.open_nursery() as nursery:
        await nursery.start(scheduler.run)
        yield World(scheduler, bench)
        nursery.cancel_scope.cancel()


@pytest.fixture
def chain(path: "MakePath", derivation: "MakeDerivation") -> dict[StorePath, Derivation]:
    """A program that needs a library, and another that needs it too."""
    return {
        path("lib.drv"): derivation("lib"),
        path("app.drv"): derivation("app", inputs=["lib"]),
        path("tool.drv"): derivation("tool", inputs=["lib"]),
    }


def links(
    number: int, path: "MakePath", derivation: "MakeDerivation"
) -> dict[StorePath, Derivation]:
    """Return derivations of which each needs the one before."""
    names = [f"link{each}" for each in range(number)]
    inputs = [[], *([name] for name in names)]
    return {
        path(f"{name}.drv"): derivation(name, inputs=needed)
        for name, needed in zip(names, inputs, strict=False)
    }


async def test_inputs_are_built_first(chain: dict[StorePath, Derivation], path: "MakePath"):
    """The program starts when the library has ended."""
    async with running(chain) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.build, 1, path("app.drv"))
        await wait_all_tasks_blocked()
        assert list(world.bench.running) == [path("lib.drv")]
        world.bench.end(path("lib.drv"))
        await wait_all_tasks_blocked()
        assert list(world.bench.running) == [path("app.drv")]
        world.bench.end(path("app.drv"))


async def test_two_clients_share_a_build(chain: dict[StorePath, Derivation], path: "MakePath"):
    """The second is told that it runs, and what it prints from then on."""
    async with running(chain) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.build, 1, path("app.drv"))
        await wait_all_tasks_blocked()
        job = world.bench.running[path("lib.drv")]
        job.started = BuildStarted(job.path, "x86_64-linux", "", 7)
        nursery.start_soon(world.build, 2, path("tool.drv"))
        await wait_all_tasks_blocked()
        log = BuildLog(job.path, 7, b"compiling")
        await job.audience.tell_log(log)
        for name in ("lib.drv", "app.drv", "tool.drv"):
            world.bench.end(path(name))
    assert sorted(world.bench.started) == sorted(chain)
    assert job.started in world.told[2]
    assert log in world.told[1]
    assert log in world.told[2]


async def test_a_client_that_leaves_ends_only_what_it_alone_wanted(
    chain: dict[StorePath, Derivation], path: "MakePath"
):
    """A shared build goes on for the other client."""
    async with running(chain) as world, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def leaving() -> None:
            with scope:
                await world.build(1, path("lib.drv"))

        nursery.start_soon(leaving)
        nursery.start_soon(world.build, 2, path("lib.drv"))
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert list(world.bench.running) == [path("lib.drv")]
        world.bench.end(path("lib.drv"))
    assert world.bench.started == [path("lib.drv")]


async def test_the_last_client_to_leave_ends_the_build(
    chain: dict[StorePath, Derivation], path: "MakePath"
):
    """Nobody is left to want it."""
    async with running(chain) as world:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.build, 1, path("lib.drv"))
                await wait_all_tasks_blocked()
                scope.cancel()
        await wait_all_tasks_blocked()
        assert world.bench.running == {}
        assert world.scheduler.snapshot() == []


async def test_without_keep_going_the_first_failure_ends_the_request(
    chain: dict[StorePath, Derivation], path: "MakePath", derivation: "MakeDerivation"
):
    """Other builds of the request are ended; the failure goes up to the target."""
    chain[path("slow.drv")] = derivation("slow")
    chain[path("top.drv")] = derivation("top", inputs=["slow", "lib"])
    async with running(chain) as world, trio.open_nursery() as nursery:
        world.bench.failing[path("lib.drv")] = FailureKind.PERMANENT
        nursery.start_soon(world.fail, 1, path("top.drv"))
        await wait_all_tasks_blocked()
        world.bench.end(path("lib.drv"))
        await wait_all_tasks_blocked()
        assert world.bench.running == {}
    failures = [event for event in world.told[1] if isinstance(event, BuildFailed)]
    assert [event.drv for event in failures] == [path("lib.drv"), path("top.drv")]
    assert failures[1].message.endswith("1 dependencies couldn't be built")


async def test_with_keep_going_everything_else_is_built(
    chain: dict[StorePath, Derivation], path: "MakePath", derivation: "MakeDerivation"
):
    """The error names the target, with the status of the gravest failure."""
    chain[path("other.drv")] = derivation("other")
    async with running(chain) as world, trio.open_nursery() as nursery:
        world.bench.failing[path("lib.drv")] = FailureKind.TIMED_OUT

        async def build() -> None:
            with pytest.raises(BuildError) as error:
                await world.build(1, path("app.drv"), path("other.drv"), keep_going=True)
            assert error.value.message == f"build of `{path('app.drv')}' failed"
            assert error.value.status == 101

        nursery.start_soon(build)
        await wait_all_tasks_blocked()
        world.bench.end(path("lib.drv"))
        await wait_all_tasks_blocked()
        assert list(world.bench.running) == [path("other.drv")]
        world.bench.end(path("other.drv"))
    assert path("other") in world.bench.valid


async def test_a_cancelled_build_fails_for_all_who_wait(
    chain: dict[StorePath, Derivation], path: "MakePath"
):
    """They are told that it was cancelled, not that it failed by itself."""
    async with running(chain) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.fail, 1, path("lib.drv"))
        nursery.start_soon(world.fail, 2, path("app.drv"))
        await wait_all_tasks_blocked()
        assert world.scheduler.cancel(path("lib.drv"))
        assert not world.scheduler.cancel(path("app.drv"))
    for session in (1, 2):
        failure = next(e for e in world.told[session] if isinstance(e, BuildFailed))
        assert failure.kind is FailureKind.CANCELLED


async def test_a_crash_in_one_job_touches_no_other(
    chain: dict[StorePath, Derivation], path: "MakePath", monkeypatch: pytest.MonkeyPatch
):
    """It is an internal error of that build; the scheduler goes on."""
    async with running(chain) as world:

        async def crash(_job: Job) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(world.bench, "realise", crash)
            await world.fail(1, path("lib.drv"))
        [failure] = [event for event in world.told[1] if isinstance(event, BuildFailed)]
        assert "internal error" in failure.message
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.build, 2, path("lib.drv"))
            await wait_all_tasks_blocked()
            world.bench.end(path("lib.drv"))


async def test_a_client_that_cannot_be_told_ends_its_own_request_only(
    chain: dict[StorePath, Derivation], path: "MakePath"
):
    """What telling raises comes out of `build`; jobs nobody else wants are ended."""

    async def broken(_event: BuildEvent) -> None:
        raise BrokenPipeError

    async with running(chain) as world:
        client = Client(3, None, None, None, "", trusted=False)
        with pytest.raises(BrokenPipeError):
            await world.scheduler.build([path("lib.drv")], BuildOptions(), client, Roots(), broken)
        await wait_all_tasks_blocked()
        assert world.bench.running == {}


async def test_jobs_that_wait_for_nothing_let_others_run(
    path: "MakePath", derivation: "MakeDerivation", monkeypatch: pytest.MonkeyPatch
):
    """A chain of builds that turn out to be done already does not keep the loop."""
    chain = links(50, path, derivation)
    async with running(chain) as world:
        turns = 0

        async def done(job: Job) -> None:
            world.bench.valid.update(job.derivation.output_paths)

        async def count() -> None:
            nonlocal turns
            while len(world.bench.valid) < 2 * len(chain):
                await trio.lowlevel.checkpoint()
                turns += 1

        monkeypatch.setattr(world.bench, "realise", done)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await world.build(1, path("link49.drv"))
    assert turns >= len(chain)


async def test_what_needs_a_build_begins_before_that_has_tidied_up(
    chain: dict[StorePath, Derivation], path: "MakePath"
):
    """Both run for a moment, and the request ends when both have ended."""
    async with running(chain) as world:
        lib, app = path("lib.drv"), path("app.drv")
        world.bench.made[lib] = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.build, 1, app)
            await wait_all_tasks_blocked()
            world.bench.made[lib].set()
            await wait_all_tasks_blocked()
            assert set(world.bench.running) == {lib, app}
            world.bench.end(app)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            world.bench.end(lib)
        assert world.bench.started == [lib, app]
        assert world.scheduler.snapshot() == []


async def test_what_needs_a_build_has_begun_when_that_tidies_up(
    path: "MakePath", derivation: "MakeDerivation", monkeypatch: pytest.MonkeyPatch
):
    """Whatever the order in which the loop takes up tasks."""
    chain = links(20, path, derivation)
    begun: list[StorePath] = []
    tidied: dict[StorePath, int] = {}

    async def realise(job: Job) -> None:
        begun.append(job.path)
        await trio.lowlevel.checkpoint()
        await job.hand_over()
        tidied[job.path] = len(begun)

    async with running(chain) as world:
        monkeypatch.setattr(world.bench, "realise", realise)
        await world.build(1, path("link19.drv"))
    assert begun == list(chain)
    assert list(tidied.values())[:-1] == list(range(2, 21))


async def test_a_fault_while_tidying_up_is_nobodys_failure(
    chain: dict[StorePath, Derivation], path: "MakePath"
):
    """What was made is valid, and whoever wanted it has it."""
    async with running(chain) as world:
        lib, app = path("lib.drv"), path("app.drv")
        world.bench.made[lib] = trio.Event()
        world.bench.failing[lib] = FailureKind.TRANSIENT
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.build, 1, app)
            await wait_all_tasks_blocked()
            world.bench.made[lib].set()
            await wait_all_tasks_blocked()
            world.bench.end(lib)
            world.bench.end(app)
        assert not [event for event in world.told[1] if isinstance(event, BuildFailed)]


async def test_who_leaves_lets_a_build_tidy_up(
    chain: dict[StorePath, Derivation], path: "MakePath"
):
    """What was made already is not cancelled, other than what needs it."""
    async with running(chain) as world:
        lib, app = path("lib.drv"), path("app.drv")
        world.bench.made[lib] = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.build, 1, app)
                await wait_all_tasks_blocked()
                world.bench.made[lib].set()
                await wait_all_tasks_blocked()
                scope.cancel()
        await wait_all_tasks_blocked()
        assert list(world.bench.running) == [lib]
        world.bench.end(lib)
        await wait_all_tasks_blocked()
        assert world.scheduler.snapshot() == []
