# SPDX-License-Identifier: GPL-3.0-or-later
"""The spawner becomes two processes once it has something to do, which live and die together."""

import os
import signal
from typing import Any

import pytest
import trio

from builder.spawner.client import SpawnerGoneError
from tests.builder.spawner.processes import spawners


async def _second_of(doubled: Any, shell: Any) -> int:
    """Have a container made, and return the process that came into being with it."""
    before = spawners()
    await doubled.run(shell("true"))
    with trio.fail_after(10):
        while not (added := spawners() - before - {doubled.helper.pid}):
            await trio.sleep(0.01)
    [second] = added
    return second


@pytest.mark.usefixtures("no_leaks")
async def test_both_make_containers(doubled: Any, shell: Any) -> None:
    """In turn, and at once; what they make are children of this process alike."""
    await _second_of(doubled, shell)
    for _ in range(3):
        assert (await doubled.run(shell("echo $$"))).lines in (["1"], ["2"])
    outputs = []

    async def one(number: int) -> None:
        outputs.append((await doubled.run(shell(f"echo {number}"))).lines)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, number)
    assert sorted(outputs) == [[str(number)] for number in range(8)]
    assert doubled.spawner.statistics().pending == 0


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("which", ["first", "second"])
async def test_one_does_not_outlive_the_other(doubled: Any, shell: Any, which: str) -> None:
    """A daemon with half a spawner must not go on as if nothing had happened."""
    second = await _second_of(doubled, shell)
    os.kill(doubled.helper.pid if which == "first" else second, signal.SIGKILL)
    with trio.fail_after(10):
        while True:
            try:
                await doubled.run(shell("true"))
            except SpawnerGoneError:
                break
        while spawners() & {doubled.helper.pid, second} - {doubled.helper.pid}:
            await trio.sleep(0.01)


@pytest.mark.usefixtures("no_leaks")
async def test_a_channel_that_is_closed_ends_both(doubled: Any, shell: Any) -> None:
    """So none is left when the daemon has ended, however it did."""
    second = await _second_of(doubled, shell)
    doubled.spawner.close()
    with trio.fail_after(10):
        await doubled.helper.wait()
        while second in spawners():
            await trio.sleep(0.01)
