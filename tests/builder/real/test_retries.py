# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds that fail beside others, and pass when they are tried again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from builder.events import BuildFailed, BuildLog, BuildRetried, BuildStarted, GoalWaiting
from builder.retries.policy import Cause, Quiet, RetrySettings
from store.paths import StorePath

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

THREE = RetrySettings(attempts=3)

# The lock is the resource of which there is one: real ones are ports, displays, time.
FRAGILE = "exec 9< /shared/lock; echo trying; flock --nonblock 9 || exit 3; echo $out > $out"
OTHER = "exec 9< /shared/lock; flock 9; echo ready; sleep 0.7; touch $out"


@pytest.fixture
def shared(base: Path) -> dict[str, Any]:
    """Settings with a directory that all builders see, read-only, with a file to lock in it."""
    place = base / "shared"
    place.mkdir()
    (place / "lock").touch()
    present = tuple(each for each in ("/bin", "/lib", "/lib64", "/usr") if Path(each).exists())
    return {"chroot_directories": (*present, f"/shared={place}")}


async def printed(yard: "Yard", word: bytes) -> None:
    """Wait until a builder has printed a word."""
    with trio.fail_after(20):
        while not any(isinstance(e, BuildLog) and word in e.data for e in yard.told):
            await trio.sleep(0.005)


async def build_beside(yard: "Yard", drv: StorePath, **options: Any) -> None:
    """Build something while another build holds the lock."""
    other = await yard.add_derivation(OTHER, "other", beside=drv)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(yard.build, other)
        await printed(yard, b"ready")
        await yard.build(drv, **options)


def of_kind(yard: "Yard", kind: type, drv: StorePath) -> list[Any]:
    """Return the events of a kind about a derivation."""
    return [event for event in yard.told if isinstance(event, kind) and event.drv == drv]


async def test_what_fails_beside_another_build_passes_alone(
    open_yard: "OpenYard", shared: dict[str, Any]
):
    """The client hears of both attempts, and of no failure; both logs are kept."""
    async with open_yard(**shared) as yard:
        drv = await yard.add_derivation(FRAGILE, "fragile")
        await build_beside(yard, drv, retries=THREE)
        assert yard.database.is_valid(yard.output(drv))
        assert len(of_kind(yard, BuildStarted, drv)) == 2
        assert not of_kind(yard, BuildFailed, drv)
        [retried] = of_kind(yard, BuildRetried, drv)
        assert (retried.attempt, retried.attempts, retried.cause) == (1, 3, "exit")
        assert retried.quiet == "half"
        assert "failed with exit code 3" in retried.message
        assert Path(retried.log_file).exists()
        assert retried.log_file.endswith("-fragile.drv.attempt-1.gz")
        assert of_kind(yard, GoalWaiting, drv)[-1].what == "half the slots to be free"
        second, first = yard.history.of_derivation(drv)
        assert (first.cause, first.quiet, first.beside) == (Cause.EXIT, Quiet.USUAL, 1)
        assert (second.cause, second.quiet, second.beside) == (Cause.SUCCESS, Quiet.HALF, 0)
        assert second.peak_memory > 0
        [flaky] = await yard.history.flaky()
        assert (flaky.name, flaky.failures) == ("fragile.drv", 1)


async def test_the_next_of_its_name_is_admitted_with_what_made_it_pass(
    open_yard: "OpenYard", shared: dict[str, Any]
):
    """It waits for quiet at once, and passes with its first attempt."""
    async with open_yard(**shared) as yard:
        drv = await yard.add_derivation(FRAGILE, "fragile")
        await build_beside(yard, drv, retries=THREE)
        again = await yard.add_derivation(FRAGILE, "fragile", version="2")
        yard.told.clear()
        await build_beside(yard, again, retries=THREE)
        [attempt] = yard.history.of_derivation(again)
        assert (attempt.number, attempt.quiet, attempt.cause) == (1, Quiet.HALF, Cause.SUCCESS)


async def test_what_fails_alone_is_built_once(yard: "Yard"):
    """A quieter machine there is not."""
    drv = await yard.add_derivation("exit 3", "broken")
    failure = await yard.failure(drv, retries=THREE)
    assert "failed with exit code 3" in failure.message
    assert not of_kind(yard, BuildRetried, drv)
    assert len(yard.history.of_derivation(drv)) == 1


async def test_what_fails_each_time_is_told_of_once(open_yard: "OpenYard", shared: dict[str, Any]):
    """After the last attempt; the failure is remembered then, and only then."""
    async with open_yard(cache_failures=True, **shared) as yard:
        drv = await yard.add_derivation(
            "exec 9< /shared/lock; flock --nonblock 9; exit 4", "broken"
        )
        other = await yard.add_derivation(OTHER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.build, other)
            await printed(yard, b"ready")
            await yard.failure(drv, retries=THREE)
        assert len(of_kind(yard, BuildStarted, drv)) == 2
        assert len(of_kind(yard, BuildFailed, drv)) == 1
        assert yard.database.has_failed(yard.output(drv))


async def test_a_wrong_hash_is_not_tried_again(open_yard: "OpenYard", shared: dict[str, Any]):
    """It would be as wrong when it is quiet."""
    async with open_yard(**shared) as yard:
        drv = await yard.add_derivation("echo x > $out", "fixed", fixed=("sha256", "0" * 64))
        other = await yard.add_derivation(OTHER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.build, other)
            await printed(yard, b"ready")
            await yard.failure(drv, retries=THREE)
        assert not of_kind(yard, BuildRetried, drv)


async def test_the_rest_goes_on_while_one_waits_for_quiet(
    open_yard: "OpenYard", shared: dict[str, Any]
):
    """What is asked for later is built earlier."""
    async with open_yard(max_jobs=2, **shared) as yard:
        drv = await yard.add_derivation(FRAGILE, "fragile")
        quick = await yard.add_derivation("touch $out", "quick")
        long = await yard.add_derivation(OTHER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.build, long)
            await printed(yard, b"ready")

            async def fragile() -> None:
                await yard.build(drv, retries=THREE)

            nursery.start_soon(fragile)
            with trio.fail_after(10):
                while not of_kind(yard, GoalWaiting, drv):
                    await trio.sleep(0.005)
            await yard.build(quick)
            assert not yard.database.is_valid(yard.output(drv))


async def test_a_derivation_can_ask_for_more_itself(open_yard: "OpenYard", shared: dict[str, Any]):
    """And say with how many cores."""
    async with open_yard(**shared) as yard:
        drv = await yard.add_derivation(
            f"echo cores $NIX_BUILD_CORES; {FRAGILE}", "fragile", retryAttempts="2", retryCores="1"
        )
        await build_beside(yard, drv, cores=3)
        assert yard.database.is_valid(yard.output(drv))
        texts = [event.data.split(b"\n")[0] for event in of_kind(yard, BuildLog, drv)]
        assert [text for text in texts if text.startswith(b"cores")] == [b"cores 3", b"cores 1"]


async def test_a_client_that_leaves_ends_the_waiting(open_yard: "OpenYard", shared: dict[str, Any]):
    """No attempt is made for nobody, and what else runs goes on."""
    async with open_yard(**shared) as yard:
        drv = await yard.add_derivation(FRAGILE, "fragile")
        other = await yard.add_derivation(OTHER, "other")

        async def impatient() -> None:
            await yard.build(drv, retries=THREE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.build, other)
            await printed(yard, b"ready")
            async with trio.open_nursery() as brief:
                brief.start_soon(impatient)
                with trio.fail_after(10):
                    while not of_kind(yard, GoalWaiting, drv):
                        await trio.sleep(0.005)
                brief.cancel_scope.cancel()
            with trio.fail_after(5):
                while yard.building.slots.statistics().waiting:
                    await trio.sleep(0.005)
        assert yard.database.is_valid(yard.output(other))
        assert len(of_kind(yard, BuildStarted, drv)) == 1
