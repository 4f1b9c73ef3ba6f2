# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending every process of a build user, before the first build that runs as it.

Whatever ran as that user before could reach into the build. kill(2) with -1 ends
all of a user's processes in one step, where going through them one by one would
race against new ones; but it must be asked for as that user. So a short-lived
process of ours becomes the user. It is none of the spawner's: what the spawner
makes cannot send signals to others.
"""

import os
import sys

from builder.errors import BuildError
from builder.users import BuildUser
from reaper.monitor import ProcessMonitor

_PROGRAM = """
import os, sys
uid, gid = map(int, sys.argv[1:])
os.setgroups([])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
try:
    os.kill(-1, 9)
except ProcessLookupError:
    pass
"""

ATTEMPTS = 5
"""What is to be ended may end our process first, but not often: it is all gone sooner."""


async def end_processes(monitor: ProcessMonitor, user: BuildUser) -> None:
    """End all processes of a user; needs root.

    Raises:
        BuildError: That did not succeed.
    """
    for _ in range(ATTEMPTS):
        # Nothing is awaited in between, so the monitor cannot reap it unregistered.
        process = monitor.register(_become_and_kill(user))
        status = await process.wait()
        if status.succeeded:
            return
    raise BuildError(
        f"cannot end the processes of build user `{user.name}': the attempt {status.describe()}"
    )


def _become_and_kill(user: BuildUser) -> int:
    arguments = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(user.uid), str(user.gid)]
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    return os.posix_spawn(sys.executable, arguments, {}, file_actions=null, setsigmask=())
