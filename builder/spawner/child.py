# SPDX-License-Identifier: GPL-3.0-or-later
"""From namespaces to exec: what becomes of a script.

A `Setup` does the steps and knows how far it is. Where namespaces can be made in advance, the
spawner furnishes them itself, and only the calls of `Setup.plan` are left to the container's
first process; otherwise, that process does everything.

Entry points: `Setup`, and `run` for a process that must not return to the spawner's loop.
"""

import errno
import os
import resource
import select
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from builder.spawner import identity, mounts, network, program, root
from builder.spawner.kit import Kit
from builder.spawner.messages import STATUS_CODEC, SetupFailure
from builder.spawner.script import Script
from builder.spawner.syscalls import (
    CLOSE_RANGE_CLOEXEC,
    close_range,
    landlock_restrict_self,
    personality,
    setdomainname,
    sethostname,
)
from builder.spawner.syscalls import prctl as raw_prctl

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_UMASK = 0o022
_ALL_DESCRIPTORS = 0xFFFFFFFF


Call = tuple[str, Callable[..., object], tuple[Any, ...]]
"""The name of the step it belongs to, a function, its arguments."""


class Channels(NamedTuple):
    """Descriptors for a builder: standard input or -1, output and error, the status pipe."""

    stdin: int
    stdout: int
    status: int


class Setup:
    """The setting up of one container; `step` is the one that is going on."""

    def __init__(self, kit: Kit, script: Script) -> None:
        self.step = "clone"
        self._operation: int | None = None
        self._kit = kit
        self._script = script
        self._root = -1

    def detach(self) -> None:
        """Separate new namespaces from the host's, from within."""
        guest = self._script.guest
        if guest is not None:
            self.step = "user-namespace"
            gid_map = b"" if guest.more_gids else guest.gid_map
            identity.map_ids(guest.uid_map, gid_map, self._kit.proc)
        if self._script.isolated:
            self.step = "private-mounts"
            root.detach_from_host()
        if self._script.network:
            self.step = "loopback"
            network.bring_up(self._kit.loopback.get())

    def furnish(self) -> None:
        """Make the root and what is in it, but for proc, and enter it."""
        script = self._script
        self.step = "host-name"
        sethostname(script.host_name, len(script.host_name))
        setdomainname(script.domain_name, len(script.domain_name))
        self.step = "root"
        self._root = root.place_root(script.root)
        self.step = "operation"
        workshop = mounts.Workshop(self._root, self._kit.devices)
        try:
            for step in script.steps:
                self._operation = step[0]
                workshop.execute(step)
            for position, parent, name in script.procs:
                self._operation = position
                workshop.make_place(parent, name)
        finally:
            workshop.close()
        self._operation = None
        self.step = "enter-root"
        root.enter_root(self._root, script.root_mode)

    def close(self) -> None:
        """Close what was opened, in a process that goes on."""
        if self._root >= 0:
            os.close(self._root)

    def mount_procs(self) -> None:
        """Mount proc, as a process of the new PID namespace."""
        self.step = "operation"
        for position, parent, name in self._script.procs:
            self._operation = position
            root.mount_proc(parent + b"/" + name)
        self._operation = None

    def leave_host(self) -> None:
        """Let go of the host's mounts."""
        self.step = "leave-host"
        root.leave_host()

    def find_program(self) -> bytes:
        """Give the path of the program, from within the new root."""
        self.step = "program"
        return program.resolve(self._script.program, self._script.beneath, self._kit.proc)

    def plan(self, path: bytes, channels: Channels) -> list[Call]:
        """List what only the builder's process can do, up to the execution of a program.

        The list is made before that process where possible: a process that was just forked
        pays about two microseconds for each page of memory that it touches first.
        """
        calls = [*self._session(channels), *self._circumstances()]
        calls.append(("directory", os.chdir, (self._script.directory,)))
        calls += self._identity()
        poll = select.poll()
        poll.register(channels.status, 0)
        calls += [
            # The change of ids would have cleared it.
            ("identity", raw_prctl, (_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)),
            ("identity", _exit_if_any, (poll,)),
        ]
        calls += self._confinement()
        arguments = path, self._script.arguments, dict(self._script.environment)
        calls.append(("execute", os.execve, arguments))
        return calls

    def _session(self, channels: Channels) -> Iterator[Call]:
        yield "session", os.setsid, ()
        if channels.stdin < 0:
            yield "session", self._open_null, ()
        else:
            yield "session", os.dup2, (channels.stdin, 0)
        yield "session", os.dup2, (channels.stdout, 1)
        yield "session", os.dup2, (channels.stdout, 2)

    def _open_null(self) -> None:
        """Open it anew, for what a builder changes by fcntl belongs to an open file."""
        os.close(0)
        os.open("null", os.O_RDWR, dir_fd=self._kit.dev)  # the lowest free number
        os.set_inheritable(0, True)

    def _circumstances(self) -> Iterator[Call]:
        for number, soft, hard in self._script.limits:
            yield "limits", resource.setrlimit, (number, (soft, hard))
        yield "personality", personality, (self._script.personality,)
        if self._script.sacrifice:
            yield "oom-score", identity.write_own, (b"oom_score_adj", b"1000", self._kit.proc)

    def _identity(self) -> Iterator[Call]:
        script = self._script
        if script.guest is not None:
            if script.guest.lock_mounts:
                yield "lock-mounts", identity.lock_mounts, (self._kit.proc,)
            yield "identity", identity.drop_bounding_set, (self._kit.last_capability,)
        yield "identity", os.umask, (_UMASK,)
        if script.ids is not None:
            uid, gid, groups = script.ids
            yield "identity", os.setgroups, (groups,)
            yield "identity", os.setresgid, (gid, gid, gid)
            yield "identity", os.setresuid, (uid, uid, uid)
        yield "identity", identity.drop_capabilities, ()
        yield "identity", raw_prctl, (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    def _confinement(self) -> Iterator[Call]:
        if self._kit.landlock >= 0:
            yield "landlock", landlock_restrict_self, (self._kit.landlock, 0)
        yield "descriptors", close_range, (3, _ALL_DESCRIPTORS, CLOSE_RANGE_CLOEXEC)
        if self._script.filtered:
            if self._kit.filter is None:
                raise OSError(errno.ENOSYS, "no filter is known for this machine")
            arguments = _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._kit.filter.address, 0, 0
            yield "seccomp", raw_prctl, arguments

    def carry_out(self, calls: list[Call]) -> None:
        """Make the calls of `plan`; the last one does not return."""
        for step, call, arguments in calls:
            self.step = step
            call(*arguments)

    def failure(self, error: Exception) -> SetupFailure:
        """Describe what went wrong."""
        if isinstance(error, OSError) and error.errno:
            return SetupFailure(self.step, error.errno, str(error.strerror), self._operation)
        return SetupFailure(self.step, 0, str(error) or repr(error), self._operation)


def _exit_if_any(poll: select.poll) -> None:
    """End where the daemon has closed the status pipe, or died before it could be noticed."""
    if poll.poll(0):
        os._exit(1)


def run(action: Callable[[], object], setup: Setup, status: int) -> NoReturn:
    """Run what a new process has to do until the exec, and report if it does not get there."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever it is, the daemon must hear of it
        os.write(status, STATUS_CODEC.encode(setup.failure(error)))
    finally:
        os._exit(1)
