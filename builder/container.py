# SPDX-License-Identifier: GPL-3.0-or-later
"""What a build process sees and may do, as plain data.

A `Container` is decided by the planner and executed by the spawner; this module
decides nothing about builds and touches nothing. The spawner gets it as a script; see
`builder.spawner.script`.
Text that builders choose (arguments, environment) is bytes; paths are text.

What is put into a container's root is in `operations`, whose names are here, too.
Entry points: `Container`, and `arrange`, which orders the operations on a root.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import chain

from builder.operations import (
    DEVICES,
    Bind,
    Devices,
    Directory,
    File,
    Operation,
    Proc,
    PseudoTerminals,
    SharedMemory,
    StoreView,
    Symlink,
    Tmpfs,
    arrange,
    check_path,
)

__all__ = [
    "ALL_NAMESPACES",
    "DEVICES",
    "GUEST_GID",
    "GUEST_UID",
    "Bind",
    "Command",
    "Container",
    "Devices",
    "Directory",
    "File",
    "GuestIdentity",
    "HostIdentity",
    "Identity",
    "Limit",
    "Namespace",
    "Operation",
    "Persona",
    "Personality",
    "Proc",
    "PseudoTerminals",
    "Root",
    "SameIdentity",
    "SharedMemory",
    "StoreView",
    "Symlink",
    "Terminal",
    "Tmpfs",
    "UplinkIdentity",
    "arrange",
]

GUEST_UID = 30001
GUEST_GID = 30000
"""The ids of a builder in a user namespace, as Guix has chosen them: builds can see them."""

MAX_HOST_NAME = 64


class Namespace(StrEnum):
    """A kernel namespace of which a container has its own; that of users follows the identity."""

    MOUNT = "mount"
    PID = "pid"
    NETWORK = "network"
    IPC = "ipc"
    UTS = "uts"


ALL_NAMESPACES = tuple(Namespace)
_TOGETHER = frozenset(ALL_NAMESPACES) - {Namespace.NETWORK}


@dataclass(frozen=True, slots=True)
class Root:
    """The root directory of a container.

    Attributes:
        path: A directory of the host that becomes the root, writable, with what it
            holds; None for an empty tmpfs, which leaves nothing to clean up.
        mode: Its mode once everything is in place; 0555 keeps builders that own it,
            as they do in a user namespace, from adding to it by accident.
    """

    path: str | None = None
    mode: int = 0o555

    def __post_init__(self) -> None:
        if self.path is not None:
            check_path(self.path)


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """A user of the host, a build user as a rule; needs root."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestIdentity:
    """The daemon's own user under another number, in a user namespace of its own.

    Attributes:
        uid: The number that the builder sees; outside it is the spawner's user.
        gid: The same for the group.
        extra_gids: Further groups, as (number inside, number outside), such as that of
            ``kvm``; left out where neither capabilities nor ``newgidmap`` can map them.
        lock_mounts: Whether a second user namespace keeps the builder's mounts from
            being taken apart; see mount_namespaces(7).
    """

    uid: int = GUEST_UID
    gid: int = GUEST_GID
    extra_gids: tuple[tuple[int, int], ...] = ()
    lock_mounts: bool = True


@dataclass(frozen=True, slots=True)
class SameIdentity:
    """Whoever the spawner is, as without build users and without a container."""


@dataclass(frozen=True, slots=True)
class UplinkIdentity:
    """Whoever the spawner is, with the capabilities that bring a network into a container.

    Without privileges they come from the user namespace of that container, which this one
    then joins; it cannot have a PID namespace of its own in that case.

    Attributes:
        pid: The first process of the container that waits for its network.
    """

    pid: int


Identity = HostIdentity | GuestIdentity | SameIdentity | UplinkIdentity


@dataclass(frozen=True, slots=True)
class Command:
    """What is executed.

    Attributes:
        program: The path of the program, as the container sees it.
        arguments: All of them, the name of the program first.
        environment: All of it; nothing is inherited.
        directory: The working directory, as the container sees it.
        beneath: A directory of the container that the program must lie in once symbolic
            links are resolved, the store as a rule; None for anywhere. This and the
            refusal of magic links keep ``/proc/self/exe`` from naming our interpreter
            (CVE-2019-5736).
    """

    program: bytes
    arguments: tuple[bytes, ...]
    environment: tuple[tuple[bytes, bytes], ...] = ()
    directory: str = "/"
    beneath: str | None = None

    def __post_init__(self) -> None:
        check_path(self.directory)
        if not self.program.startswith(b"/"):
            raise ValueError(f"the program `{self.program!r}' must be an absolute path")
        if not self.arguments:
            raise ValueError("the arguments must begin with the program's name")
        texts = (self.program, *self.arguments, *chain.from_iterable(self.environment))
        if b"\0" in b"".join(texts):
            raise ValueError("arguments and environment may not contain NUL")
        names = [name for name, _ in self.environment]
        if b"" in names or b"=" in b"".join(names):
            raise ValueError("the name of an environment variable may not be empty or contain `='")


class Persona(IntEnum):
    """What personality(2) may change about a builder; the numbers are the kernel's."""

    LINUX = 0x0000
    LINUX_32 = 0x0008


@dataclass(frozen=True, slots=True)
class Personality:
    """The execution domain of a builder.

    Attributes:
        persona: `LINUX_32` makes uname(2) tell of a 32-bit machine.
        linux_26: Whether uname(2) tells of Linux 2.6 (UNAME26).
        randomise_addresses: False for address space without randomisation, which makes
            builds more alike (ADDR_NO_RANDOMIZE).
    """

    persona: Persona = Persona.LINUX
    linux_26: bool = False
    randomise_addresses: bool = False

    @property
    def number(self) -> int:
        """The argument of personality(2)."""
        uname_26, no_randomise = 0x0020000, 0x0040000
        flags = uname_26 if self.linux_26 else 0
        return self.persona | flags | (0 if self.randomise_addresses else no_randomise)


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource limit: a number of `resource.RLIMIT_…`, and values of which -1 is infinite."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal of a container, by the size it has at first; 0 where that is not known."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Container:
    """A process to start, and all that surrounds it.

    Without namespaces (``--disable-chroot``) the root, operations and host names have no
    effect; the ids, limits, personality and the filter of system calls still do.

    Attributes:
        command: What runs, as PID 1 of its namespace.
        identity: As whom.
        root: What it runs in.
        operations: What is put into the root, in this order; see `arrange`.
        namespaces: All or none, except that the network may be left out.
        host_name: What uname(2) and gethostname(2) tell.
        domain_name: Likewise.
        personality: See there.
        limits: Resource limits.
        sacrifice: Whether the kernel, out of memory, ends this process before others.
        filter_system_calls: Whether set-id bits, extended attributes and io_uring are
            out of reach.
        awaits_network: Whether it waits, before the program is executed, until somebody has
            brought an interface into its network; see `Spawner.spawn`.
        loopback: Whether what it then sends to 127.0.0.1 stays in its network, rather than
            leave by that interface.
        terminal: The terminal that is its standard input, output and error, if it has one;
            needs a devpts.
    """

    command: Command
    identity: Identity
    root: Root = Root()
    operations: tuple[Operation, ...] = ()
    namespaces: tuple[Namespace, ...] = ALL_NAMESPACES
    host_name: str = "localhost"
    domain_name: str = "(none)"
    personality: Personality = Personality()
    limits: tuple[Limit, ...] = ()
    sacrifice: bool = True
    filter_system_calls: bool = True
    awaits_network: bool = False
    loopback: bool = True
    terminal: Terminal | None = None

    def __post_init__(self) -> None:
        isolated = _TOGETHER.intersection(self.namespaces)
        if isolated and isolated != _TOGETHER:
            raise ValueError("a container needs mount, pid, ipc and uts namespaces, or none")
        if not isolated and self.namespaces:
            raise ValueError("a network namespace needs the others too")
        if not isolated and isinstance(self.identity, GuestIdentity):
            raise ValueError("a user namespace needs the other namespaces too")
        if self.awaits_network and Namespace.NETWORK not in self.namespaces:
            raise ValueError("a network can be brought only into a namespace of its own")
        if self.terminal is not None and not isolated:
            raise ValueError("a terminal needs a container of its own")
        if isinstance(self.identity, UplinkIdentity) and Namespace.NETWORK in self.namespaces:
            raise ValueError("what brings a network must be in the one that it brings")
        self._check_operations()
        for name in (self.host_name, self.domain_name):
            if len(name.encode()) > MAX_HOST_NAME:
                raise ValueError(f"`{name}' is longer than a host name may be")

    def _check_operations(self) -> None:
        """Refuse operations below proc: it is mounted last, by the container's first process."""
        procs = tuple([i.target + "/" for i in self.operations if isinstance(i, Proc)])
        for operation in self.operations if procs else ():
            if operation.target.startswith(procs):
                raise ValueError(f"`{operation.target}' lies in the process file system")

    @property
    def isolated(self) -> bool:
        """Whether it has its own namespaces and root."""
        return bool(self.namespaces)

    def describe(self) -> Iterator[str]:
        """Give a line for each thing that matters, for logs."""
        yield f"run {self.command.program.decode(errors='backslashreplace')}"
        yield f"as {self.identity}"
        if self.isolated:
            yield f"in {self.root.path or 'a new tmpfs'}"
            yield from (operation.describe() for operation in self.operations)
