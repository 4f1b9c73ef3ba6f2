# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping ``guix discover`` running, which notes the substitute servers of the local network.

`guix substitute` reads what it notes. Without it only those servers are missing, so
its end is reported and nothing more. Entry point: `run_discovery`.
"""

from collections.abc import Mapping

from builder.agents import AgentError, Program, open_agent
from reaper.monitor import ProcessMonitor
from storedaemon.logs import Logger


async def run_discovery(
    monitor: ProcessMonitor, guix: str, environment: Mapping[str, str], log: Logger
) -> None:
    """Run the program until it ends or this is cancelled, and pass on what it says.

    Args:
        monitor: Reaps it.
        guix: The file name of ``guix``.
        environment: The program's.
        log: The daemon's logger.
    """
    try:
        async with open_agent(monitor, Program(guix, ("discover",), environment)) as agent:
            async for data in agent.output:
                log.debug("discovery", text=data.decode("utf-8", "backslashreplace"))
            status = await agent.process.wait()
    except AgentError as error:
        log.warning("no discovery of substitute servers", error=str(error))
    else:
        log.warning("no more discovery of substitute servers", status=status.describe())
