# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers with a terminal: launched into a room, and cloned."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from builder.container import GuestIdentity, PseudoTerminals, SameIdentity, Terminal
from builder.entering.streams import Streams, open_streams
from builder.spawner.client import SetupError

if TYPE_CHECKING:
    from builder.container import Container
    from tests.builder.spawner.conftest import Describe, Workbench

SIZE = Terminal(91, 33)
IDENTITIES = [
    pytest.param({}, marks=pytest.mark.root, id="room"),
    pytest.param({"identity": GuestIdentity()}, id="house"),
]


@pytest.fixture
def streams() -> Iterator[Streams]:
    """The daemon's side of a terminal."""
    with open_streams(SIZE) as opened:
        yield opened


async def run(
    bench: "Workbench", container: "Container", streams: Streams, typed: bytes = b""
) -> str:
    """Run a container to its end, type something when it prints; give what it printed."""
    assert streams.inner is not None
    stdin, stdout = streams.inner
    spawned = await bench.spawner.spawn(container, stdout_fd=stdout, stdin_fd=stdin)
    streams.let_go()
    try:
        await spawned.setup
        streams.arrive()
        output = b""
        while data := await streams.read():
            output += data
            assert await streams.write(typed)
            typed = b""
    finally:
        spawned.process.kill()
        await spawned.process.wait()
    return output.decode()


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_it_is_all_that_a_container_has_open(
    bench: "Workbench", shell: "Describe", streams: Streams, identity: dict[str, object]
):
    """Under its own name, as the container's user's, as the terminal that controls its session."""
    # A pipeline would show: the shell has its pipe open for a moment.
    script = "stty size; for fd in /proc/$$/fd/*; do readlink $fd; done"
    script += "; stat -c %u /dev/pts/0; id -u"
    script += "; ps -o tty= -p $$; echo from the start > /dev/tty; ls /dev/pts"
    output = await run(bench, shell(script, terminal=SIZE, **identity), streams)
    size, *files, owner, user, tty, told, listed, _ = output.split("\r\n")
    assert size == "33 91"
    assert files == ["/dev/pts/0"] * 3
    assert owner == user != "0"
    assert (tty.strip(), told, listed.split()) == ("pts/0", "from the start", ["0", "ptmx"])


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_interrupts_reach_what_runs_on_it(
    bench: "Workbench", shell: "Describe", streams: Streams, identity: dict[str, object]
):
    """A character becomes a signal there."""
    script = "trap 'echo caught; exit' INT; echo ready; while :; do sleep 0.05; done"
    output = await run(bench, shell(script, terminal=SIZE, **identity), streams, b"\x03")
    assert output == "ready\r\n^Ccaught\r\n"


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_what_cannot_be_executed_says_so(
    bench: "Workbench", container: "Describe", streams: Streams, identity: dict[str, object]
):
    """The terminal is gone with it."""
    with pytest.raises(SetupError, match="No such file") as caught:
        await run(bench, container("/no/such", terminal=SIZE, **identity), streams)
    assert caught.value.step in ("program", "execute")


async def test_without_devpts_there_is_no_terminal(
    bench: "Workbench", container: "Describe", streams: Streams
):
    """Which step failed is told."""
    described = container("/bin/sh", identity=GuestIdentity(), terminal=SIZE)
    kept = tuple(each for each in described.operations if not isinstance(each, PseudoTerminals))
    with pytest.raises(SetupError) as caught:
        await run(bench, replace(described, operations=kept), streams)
    assert caught.value.step == "terminal"


def test_without_a_container_there_is_none(container: "Describe"):
    """The host's terminals are not for builders."""
    with pytest.raises(ValueError, match="a terminal needs a container"):
        container("/bin/sh", identity=SameIdentity(), terminal=SIZE, namespaces=(), operations=())


def test_closing_leaves_nothing_open():
    """Whether or not a container got its part."""
    before = os.listdir("/proc/self/fd")
    for terminal in (SIZE, None):
        with open_streams(terminal):
            pass
        with open_streams(terminal) as streams:
            streams.let_go()
    assert os.listdir("/proc/self/fd") == before
