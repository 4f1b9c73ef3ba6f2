# SPDX-License-Identifier: GPL-3.0-or-later
"""From clone to exec: what a container's first process does.

It has two halves. `prepare` is the same for all containers of one kind and can be done
before a description is known; `Child.become` does what the script says and ends in the
builder. Nothing here returns to the spawner's loop: a failure is written to the status
pipe as a `SetupFailure`, and the process ends.
"""

import errno
import os
import resource
import select
import signal
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import prctl

from builder.spawner import identity, landlock, mounts, network, program, root
from builder.spawner.kit import Kit
from builder.spawner.messages import STATUS_CODEC, SetupFailure
from builder.spawner.script import Script
from builder.spawner.syscalls import (
    CLOSE_RANGE_CLOEXEC,
    close_range,
    personality,
    setdomainname,
    sethostname,
)
from builder.spawner.syscalls import prctl as raw_prctl

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_UMASK = 0o022
_ALL_DESCRIPTORS = 0xFFFFFFFF


class Channels(NamedTuple):
    """Descriptors for a builder: standard input or -1, output and error, the status pipe."""

    stdin: int
    stdout: int
    status: int


class Child:
    """A process on its way to a builder; `step` says how far it is."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._process = -1
        self._operation: int | None = None
        self.step = "clone"

    def prepare(self, *, isolated: bool, network_too: bool) -> None:
        """Do what needs no script.

        Raises:
            OSError: See `step`.
        """
        self.step = "session"
        os.setsid()
        self._process = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
        if isolated:
            self.step = "private-mounts"
            root.detach_from_host()
        if network_too:
            self.step = "loopback"
            network.bring_up(self._kit.loopback.get())

    def become(self, script: Script, channels: Channels) -> NoReturn:
        """Do what the script says and execute its program.

        Raises:
            OSError: See `step`.
            UnsuitableProgramError: The program may not be executed.
        """
        if script.guest is not None:
            self.step = "user-namespace"
            identity.map_ids(*script.guest[:2], self._process)
        self.step = "descriptors"
        _connect(channels)
        self._adjust(script)
        if script.isolated:
            self._furnish(script)
        self.step = "directory"
        os.chdir(script.directory)
        self.step = "program"
        path = program.resolve(script.program, script.beneath, self._process)
        if script.guest is not None and script.guest[2]:
            self.step = "lock-mounts"
            identity.lock_mounts(self._process)
        self.step = "identity"
        self._take_identity(script, channels.status)
        self._confine(script)
        self.step = "execute"
        os.execve(path, script.arguments, dict(script.environment))

    def _adjust(self, script: Script) -> None:
        self.step = "limits"
        for number, soft, hard in script.limits:
            resource.setrlimit(number, (soft, hard))
        self.step = "personality"
        personality(script.personality)
        if script.sacrifice:
            self.step = "oom-score"
            identity.write_own(b"oom_score_adj", b"1000", self._process)

    def _furnish(self, script: Script) -> None:
        self.step = "host-name"
        sethostname(script.host_name, len(script.host_name))
        setdomainname(script.domain_name, len(script.domain_name))
        self.step = "root"
        new_root = root.place_root(script.root)
        self.step = "operation"
        workshop = mounts.Workshop(new_root, self._kit.devices)
        for self._operation, step in enumerate(script.steps):
            workshop.execute(step)
        self._operation = None
        self.step = "enter-root"
        root.enter_root(new_root, script.root_mode)

    def _take_identity(self, script: Script, status: int) -> None:
        if script.guest is not None:
            identity.drop_bounding_set(self._kit.last_capability)
        if script.ids is not None:
            identity.become(*script.ids)
        os.umask(_UMASK)
        identity.renounce()
        prctl.set_pdeathsig(signal.SIGKILL)  # setuid would have cleared it
        if _is_abandoned(status):
            os._exit(1)

    def _confine(self, script: Script) -> None:
        self.step = "landlock"
        landlock.restrict(self._kit.landlock)
        close_range(3, _ALL_DESCRIPTORS, CLOSE_RANGE_CLOEXEC)
        if script.filtered:
            self.step = "seccomp"
            if self._kit.filter is None:
                raise OSError(errno.ENOSYS, "no filter is known for this machine")
            raw_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._kit.filter.address, 0, 0)

    def failure(self, error: Exception) -> SetupFailure:
        """Describe what went wrong."""
        if isinstance(error, OSError) and error.errno:
            return SetupFailure(self.step, error.errno, str(error.strerror), self._operation)
        return SetupFailure(self.step, 0, str(error) or repr(error), self._operation)


def _connect(channels: Channels) -> None:
    stdin = channels.stdin if channels.stdin >= 0 else os.open(os.devnull, os.O_RDWR)
    os.dup2(stdin, 0)
    os.dup2(channels.stdout, 1)
    os.dup2(channels.stdout, 2)


def _is_abandoned(status: int) -> bool:
    """Tell whether the daemon has closed the status pipe, or has died before we could notice."""
    poll = select.poll()
    poll.register(status, 0)
    return bool(poll.poll(0))


def run(action: Callable[[], NoReturn], child: Child, status: int) -> NoReturn:
    """Run the last part of a child, which must not return, and report its failure."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever it is, the daemon must hear of it
        os.write(status, STATUS_CODEC.encode(child.failure(error)))
    finally:
        os._exit(1)
