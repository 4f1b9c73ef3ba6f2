# SPDX-License-Identifier: GPL-3.0-or-later
"""Helper programs: how they start, what they get, and how they end."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from builder.agents import AgentError, LineReader, Program, open_agent
from reaper.monitor import ProcessMonitor


@pytest.fixture
async def monitor() -> AsyncIterator[ProcessMonitor]:
    """A monitor that reaps."""
    made = ProcessMonitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


def shell(script: str) -> Program:
    """Return a program that runs a script."""
    return Program("/bin/sh", ("-c", script), {"WORD": "spoken"})


def inheritable(fd: int) -> bool:
    """Tell whether a program that this process starts would get a descriptor."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


async def test_requests_replies_and_output_have_their_descriptors(monitor: ProcessMonitor):
    """Standard input, the second pipe, and both standard outputs in one."""
    script = "read line; echo got $line $WORD >&4; echo out; echo err >&2"
    async with open_agent(monitor, shell(script)) as agent:
        await agent.requests.send_all(b"hello\n")
        assert await LineReader(agent.replies, "it").line() == "got hello spoken"
        lines = LineReader(agent.output, "it")
        assert [await lines.line(), await lines.line()] == ["out", "err"]
        assert (await agent.process.wait()).succeeded


async def test_it_inherits_nothing_else(monitor: ProcessMonitor):
    """Neither descriptors, nor Python's ignoring of SIGPIPE, nor the daemon's session."""
    # Whoever started the tests may have left them something, which is none of ours.
    given = {int(fd) for fd in os.listdir("/proc/self/fd") if inheritable(int(fd))}
    async with open_agent(monitor, shell("echo here; exec sleep 60")) as agent:
        assert await LineReader(agent.output, "it").line() == "here"
        pid = agent.process.pid
        assert set(map(int, os.listdir(f"/proc/{pid}/fd"))) - given <= {0, 1, 2, 4}
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        [line] = [line for line in status if line.startswith("SigIgn")]
        assert not int(line.split()[1], 16) & 1 << (signal.SIGPIPE - 1)
        assert os.getsid(pid) == pid


async def test_it_is_gone_after_the_block_with_all_its_group(monitor: ProcessMonitor):
    """Whatever it started is ended, too."""
    async with open_agent(monitor, shell("sleep 4800 & echo $!; wait")) as agent:
        child = int(await LineReader(agent.output, "it").line())
    assert agent.process.status is not None
    with trio.fail_after(5):
        while os.path.exists(f"/proc/{child}"):
            await trio.sleep(0.01)


async def test_a_program_that_cannot_start_is_named(monitor: ProcessMonitor):
    """And no descriptor is left open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(AgentError, match=r"cannot start `/nonexistent/guix substitute': .*No such"):
        async with open_agent(monitor, Program("/nonexistent/guix", ("substitute",))):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_reader_refuses_what_makes_no_sense(monitor: ProcessMonitor):
    """An end in the middle, a line without end, and what is no text."""
    async with open_agent(monitor, shell("printf half")) as agent:
        with pytest.raises(AgentError, match="it ended unexpectedly"):
            await LineReader(agent.output, "it").line()
    async with open_agent(monitor, shell("yes | tr -d '\\n'")) as agent:
        with pytest.raises(AgentError, match="a line of over 1000 octets"):
            await LineReader(agent.output, "it", 1000).line()
    async with open_agent(monitor, shell("printf '\\377\\n'")) as agent:
        with pytest.raises(AgentError, match="not UTF-8"):
            await LineReader(agent.output, "it").line()


async def test_a_reader_takes_counted_octets_between_lines(monitor: ProcessMonitor):
    """As protocols do that announce the length of what follows."""
    async with open_agent(monitor, shell("printf '3\\na\\nb4\\n'")) as agent:
        lines = LineReader(agent.output, "it")
        assert await lines.exactly(int(await lines.line())) == b"a\nb"
        assert await lines.line() == "4"
