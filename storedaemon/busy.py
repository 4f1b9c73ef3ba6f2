# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``guix gc --list-busy`` says that running processes use, beside what we see ourselves.

Entry point: `list_busy`.
"""

import os
from collections.abc import Mapping

import trio

from builder.agents import AgentError, Program, open_agent
from reaper.monitor import ProcessMonitor
from store.layout import Layout

_CHUNK = 65536
_MOST = 64 * 1024 * 1024


async def list_busy(
    monitor: ProcessMonitor, guix: str, layout: Layout, environment: Mapping[str, str]
) -> frozenset[str]:
    """Return the items that the program names; empty where there is no such program.

    Args:
        monitor: Reaps it.
        guix: The file name of ``guix``.
        layout: Of the store.
        environment: The program's.

    Raises:
        AgentError: It failed, so nobody knows what is in use.
    """
    if not os.access(guix, os.X_OK):
        return frozenset()
    program = Program(guix, ("gc", "--list-busy"), environment)
    async with open_agent(monitor, program) as agent:
        await agent.requests.aclose()
        text = await _read_all(agent.output, program)
        status = await agent.process.wait()
    if not status.succeeded:
        raise AgentError(f"`{program.words}' {status.describe()}: {text[-1000:].strip()}")
    prefix = f"{layout.store}/"
    lines = (line for line in text.splitlines() if line.startswith(prefix))
    return frozenset(prefix + line.removeprefix(prefix).partition("/")[0] for line in lines)


async def _read_all(stream: trio.abc.ReceiveStream, program: Program) -> str:
    data = bytearray()
    while chunk := await stream.receive_some(_CHUNK):
        data += chunk
        if len(data) > _MOST:
            raise AgentError(f"`{program.words}' says more than can be true")
    return data.decode("utf-8", "surrogateescape")
