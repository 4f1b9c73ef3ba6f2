# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending every process of a build user, before the first build that runs as it.

Whatever ran as that user before could reach into the build. kill(2) with -1 ends
all of a user's processes in one step, but only that user may ask for it; so a
short-lived process is started as the user, through the spawner.
"""

import os

from builder.container import Command, Container, HostIdentity
from builder.errors import BuildError
from builder.spawner.client import Spawner, SpawnError
from builder.users import BuildUser

SHELL = b"/bin/sh"
"""Any program of the host that can call kill(2) would do; every build user can execute this."""


async def end_processes(spawner: Spawner, user: BuildUser) -> None:
    """End all processes of a user.

    Raises:
        BuildError: That cannot be asked for.
    """
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        spawned = await spawner.spawn(_killer(user), stdout_fd=null)
        await spawned.setup
    except SpawnError as error:
        raise BuildError(
            f"cannot end the processes of build user `{user.name}': {error.message}"
        ) from error
    finally:
        os.close(null)
    # Its status says only whether there was anything to end.
    await spawned.process.wait()


def _killer(user: BuildUser) -> Container:
    return Container(
        command=Command(SHELL, (b"sh", b"-c", b"kill -9 -1")),
        identity=HostIdentity(user.uid, user.gid),
        namespaces=(),
    )
