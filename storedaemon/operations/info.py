# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon tells about itself."""

import time
from dataclasses import dataclass

from builder.scheduling.jobs import JobView
from storedaemon.services import Services
from storedaemon.session import Session


@dataclass(frozen=True, slots=True)
class SessionView:
    """A look at one session.

    Attributes:
        id: Its number.
        dialect: What it speaks.
        pid: The client's process; None where it is not known.
        user: The client's user name; empty where it is not known.
        operation: What it is being served; empty when idle.
        age: Seconds since it connected.
    """

    id: int
    dialect: str
    pid: int | None
    user: str
    operation: str
    age: float


async def builtin_builders(services: Services, _session: Session) -> list[str]:
    """Return the builders that are part of the daemon, without ``builtin:``."""
    return services.building.builtins.names()


async def list_sessions(services: Services, _session: Session) -> list[SessionView]:
    """Return a look at each session, the oldest first."""
    now = time.time()
    return [
        SessionView(
            id=session.id,
            dialect=session.dialect.value,
            pid=session.client.pid,
            user=session.client.user,
            operation=session.operation,
            age=now - session.since,
        )
        for session in services.sessions.values()
    ]


async def list_jobs(services: Services, _session: Session) -> list[JobView]:
    """Return a look at each build that runs or waits, the oldest first, and at each shell."""
    return [*services.scheduler.snapshot(), *services.building.visits.snapshot()]
