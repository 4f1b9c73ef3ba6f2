# SPDX-License-Identifier: GPL-3.0-or-later
"""The system calls that turn a new process into a builder, as a list.

Up to the last one, which executes the program, they need nothing of each other but now and
then the last result. So a process can make them that has no interpreter; see ``_launch.c``.

Entry points: `Channels`, `Call` and `plan`; `perform` and `launch` make the calls.
"""

import errno
import os
import signal
import struct
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import NamedTuple

from builder.spawner import _launch
from builder.spawner.identity import (
    CAPABILITY_HEADER,
    NO_CAPABILITIES,
    PR_CAPBSET_DROP,
    UPLINK_CAPABILITIES,
)
from builder.spawner.kit import Filter, Kit
from builder.spawner.root import MACHINE_ENTRIES, PROC_FLAGS
from builder.spawner.script import Script
from builder.spawner.syscalls import CLOSE_RANGE_CLOEXEC, MS_BIND, MS_RDONLY, MS_REMOUNT

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_UMASK = 0o022
_ALL_DESCRIPTORS = 0xFFFFFFFF
_AT_ONCE = bytes(16)  # struct timespec
KEPT_DESCRIPTOR = 3
_AT_FDCWD = -100
_RESULT = ...  # of the call before

Argument = int | bytes | bytearray | tuple[bytes, ...] | EllipsisType | None
"""A number, memory, an array of strings that NULL ends, the result of the call before, NULL."""


class Channels(NamedTuple):
    """Descriptors for a builder: standard input, output and error, the status pipe, and more.

    That is the gate for what awaits its network, and the network for what brings it. It and
    standard input are -1 where there are none. A container with a terminal has its name
    instead of the first two.
    """

    stdin: int
    stdout: int
    status: int
    more: int = -1
    terminal: bytes = b""


class Call(NamedTuple):
    """A system call.

    Attributes:
        step: The step it belongs to.
        name: As it is called.
        arguments: Memory that the kernel writes to is a `bytearray`.
        operation: The position of the operation it belongs to, if any.
        ends: Whether a result above 0 ends the process without a word.
    """

    step: str
    name: str
    arguments: tuple[Argument, ...] = ()
    operation: int | None = None
    ends: bool = False


class Failure(NamedTuple):
    """A call that failed, and its error number."""

    call: Call
    errno: int

    @property
    def text(self) -> str:
        """What was wrong; the client says what of, where it is a path of the container."""
        text, name = os.strerror(self.errno), self.call.name
        return text if name in ("chdir", "execve") else f"{name}: {text}"


def perform(calls: Sequence[Call]) -> Failure | None:
    """Make the calls; give the one that failed, the last that was made."""
    failed, code = _launch.perform([(i.name, i.arguments, i.ends) for i in calls])
    return Failure(calls[failed], code) if failed >= 0 else None


def launch(calls: Sequence[Call]) -> tuple[int, int, Failure | None]:
    """Make a sibling of this process, which makes the calls while this process waits.

    Returns:
        Its pid, a pidfd that is close-on-exec, and the call because of which it ends; None
        where it has executed its program, or has ended for another reason.

    Raises:
        OSError: No process could be made.
    """
    pid, pidfd, failed, code = _launch.launch([(i.name, i.arguments, i.ends) for i in calls])
    return pid, pidfd, Failure(calls[failed], code) if failed >= 0 else None


def plan(kit: Kit, script: Script, path: bytes, channels: Channels) -> list[Call]:
    """List what only the builder's process can do once its root is furnished.

    Args:
        kit: What was prepared.
        script: The container.
        path: The program, from within the root.
        channels: The descriptors.

    Raises:
        OSError: There is no filter of system calls for this machine.
    """
    environment = tuple(b"%s=%s" % pair for pair in script.environment)
    return [
        *_session(kit, channels),
        *_keep(script, channels),
        *_circumstances(kit, script),
        Call("directory", "chdir", (script.directory,)),
        *_identity(kit, script),
        *_bond(channels.status),
        *_confinement(kit, script),
        Call("execute", "execve", (path, script.arguments, environment)),
    ]


def mount_procs(kit: Kit, script: Script) -> list[Call]:
    """List the mounting of proc, in the root that was entered, by a process of its namespace."""
    calls = []
    for at, parent, name in script.procs:
        path = parent + b"/" + name
        calls.append(Call("operation", "mount", (b"proc", path, b"proc", PROC_FLAGS, None), at))
        if script.guest is not None and script.guest.is_root:
            calls += _protect_machine(kit, path, at)
    return calls


def _protect_machine(kit: Kit, proc: bytes, at: int) -> Iterator[Call]:
    """Make read-only what proc shows of the machine.

    The kernel lets root write to the files of ``/proc/sys`` and their like by its number
    alone, whatever capabilities it has in whichever user namespace; through
    ``kernel/core_pattern`` it would then execute anything outside.
    """
    for name in MACHINE_ENTRIES:
        if os.access(name, os.F_OK, dir_fd=kit.proc):
            path = proc + b"/" + name
            yield Call("operation", "mount", (path, path, None, MS_BIND, None), at)
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | PROC_FLAGS
            yield Call("operation", "mount", (None, path, None, flags, None), at)


def _session(kit: Kit, channels: Channels) -> Iterator[Call]:
    yield Call("session", "setsid")
    stdin: Argument = channels.stdin
    stdout: Argument = channels.stdout
    if channels.terminal:
        # For the leader of a session without one, it becomes the controlling terminal.
        flags = os.O_RDWR | os.O_CLOEXEC
        yield Call("session", "openat", (_AT_FDCWD, channels.terminal, flags, 0))
        stdin, stdout = _RESULT, 0
    elif channels.stdin < 0:
        # Opened anew, for what a builder changes by fcntl belongs to an open file.
        yield Call("session", "openat", (kit.dev, b"null", os.O_RDWR | os.O_CLOEXEC, 0))
        stdin = _RESULT
    yield Call("session", "dup3", (stdin, 0, 0))
    yield Call("session", "dup3", (stdout, 1, 0))
    yield Call("session", "dup3", (stdout, 2, 0))


def _keep(script: Script, channels: Channels) -> Iterator[Call]:
    if script.uplink is not None:
        # The number is that of the spawner's own channel, so nothing that is needed has it.
        yield Call("session", "dup3", (channels.more, KEPT_DESCRIPTOR, 0))


def _circumstances(kit: Kit, script: Script) -> Iterator[Call]:
    for number, soft, hard in script.limits:
        limit = struct.pack("=QQ", soft % (1 << 64), hard % (1 << 64))  # -1 is no limit
        yield Call("limits", "prlimit64", (0, number, limit, None))
    yield Call("personality", "personality", (script.personality,))
    if script.sacrifice:
        own = b"self/oom_score_adj"
        yield Call("oom-score", "openat", (kit.proc, own, os.O_WRONLY | os.O_CLOEXEC, 0))
        yield Call("oom-score", "write", (_RESULT, b"1000", 4))


def _identity(kit: Kit, script: Script) -> Iterator[Call]:
    for number in _capabilities_to_lose(kit, script):
        yield Call("identity", "prctl", (PR_CAPBSET_DROP, number, 0, 0, 0))
    yield Call("identity", "umask", (_UMASK,))
    if script.ids is not None:
        uid, gid, groups = script.ids
        array = struct.pack(f"={len(groups)}I", *groups)
        yield Call("identity", "setgroups", (len(groups), array))
        yield Call("identity", "setresgid", (gid, gid, gid))
        yield Call("identity", "setresuid", (uid, uid, uid))
        # A launched process still has the spawner's memory, which is nothing for others with
        # that id. The kernel sees to it, too, unless fs.suid_dumpable is 1.
        yield Call("identity", "prctl", (_PR_SET_DUMPABLE, 0, 0, 0, 0))
    if script.uplink is None:
        yield Call("identity", "capset", (CAPABILITY_HEADER, NO_CAPABILITIES))
    yield Call("identity", "prctl", (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _capabilities_to_lose(kit: Kit, script: Script) -> Sequence[int]:
    """Give those that the bounding set still has, and that the program must never gain."""
    if script.uplink is not None:
        return ()
    if script.guest is not None:
        return range(kit.last_capability + 1)
    return UPLINK_CAPABILITIES if kit.privileged else ()


def _bond(status: int) -> Iterator[Call]:
    """End with the daemon, and where it has closed the status pipe or died before that."""
    # The change of ids would have cleared it.
    yield Call("identity", "prctl", (_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    polled = bytearray(struct.pack("=ihh", status, 0, 0))  # an error is told unasked
    yield Call("identity", "ppoll", (polled, 1, _AT_ONCE, None, 0), ends=True)


def _confinement(kit: Kit, script: Script) -> Iterator[Call]:
    if kit.landlock >= 0:
        yield Call("landlock", "landlock_restrict_self", (kit.landlock, 0))
    first = 3 if script.uplink is None else KEPT_DESCRIPTOR + 1
    yield Call("descriptors", "close_range", (first, _ALL_DESCRIPTORS, CLOSE_RANGE_CLOEXEC))
    if script.filtered:
        address = _filter(kit, script).address
        yield Call("seccomp", "prctl", (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0))


def _filter(kit: Kit, script: Script) -> Filter:
    chosen = kit.filter if script.uplink is None else kit.uplink_filter
    if chosen is None:
        raise OSError(errno.ENOSYS, "no filter is known for this machine")
    return chosen
