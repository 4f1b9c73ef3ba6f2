# SPDX-License-Identifier: GPL-3.0-or-later
"""What a build process sees and may do, as plain data.

A `Container` is decided by the planner and executed by the spawner; this module
decides nothing about builds and touches nothing. Every value survives CBOR.
Text that builders choose (arguments, environment) is bytes; paths are text.

Entry points: `Container`, and `arrange`, which orders the operations on a root.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum

GUEST_UID = 30001
GUEST_GID = 30000
"""The ids of a builder in a user namespace, as Guix has chosen them: builds can see them."""

DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
"""The devices that every builder may use; the planner adds ``kvm`` where it exists."""

MAX_HOST_NAME = 64


class Namespace(StrEnum):
    """A kernel namespace of which a container has its own; that of users follows the identity."""

    MOUNT = "mount"
    PID = "pid"
    NETWORK = "network"
    IPC = "ipc"
    UTS = "uts"


ALL_NAMESPACES = tuple(Namespace)


def check_path(path: str) -> None:
    """Refuse a path that is not plain and absolute.

    Raises:
        ValueError: The path is relative, or has ``..``, ``.``, double slashes or a NUL.
    """
    slashed = path + "/"
    rough = "//" in slashed or "/./" in slashed or "/../" in slashed or "\0" in path
    if path != "/" and (rough or not path.startswith("/")):
        raise ValueError(f"`{path}' is not a plain absolute path")


def check_target(path: str) -> None:
    """Refuse a path that no operation may have as its target: a rough one, or the root.

    Raises:
        ValueError: See there.
    """
    check_path(path)
    if path == "/":
        raise ValueError("operations lie below the root; see `Root` for the root itself")


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host, with everything mounted below it.

    A symbolic link is not followed: the container gets a link with the same text,
    because a mount would show what it points to.

    Attributes:
        source: Where it is outside.
        target: Where it appears inside; parents are made, mode 0755.
        read_only: Applies to what is mounted below it, too.
        optional: Nothing is done where the source does not exist.
        devices: Whether device nodes in it work.
    """

    source: str
    target: str
    read_only: bool = True
    optional: bool = False
    devices: bool = False

    def __post_init__(self) -> None:
        check_path(self.source)
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        access = "read-only" if self.read_only else "writable"
        return f"bind {self.source} to {self.target}, {access}"


@dataclass(frozen=True, slots=True)
class File:
    """A regular file with this content."""

    target: str
    contents: bytes
    mode: int = 0o444

    def __post_init__(self) -> None:
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        return f"write {len(self.contents)} bytes to {self.target}, mode {self.mode:04o}"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; one that exists already gets this mode and owner.

    The numbers of the owner are those the container sees; None leaves it to who sets
    the container up: root, or the only user that a user namespace knows.
    """

    target: str
    mode: int = 0o755
    uid: int | None = None
    gid: int | None = None

    def __post_init__(self) -> None:
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        owner = f"{'-' if self.uid is None else self.uid}:{'-' if self.gid is None else self.gid}"
        return f"directory {self.target}, mode {self.mode:04o}, owner {owner}"


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link at `target` whose text is `destination`."""

    target: str
    destination: str

    def __post_init__(self) -> None:
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        return f"link {self.target} to {self.destination}"


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A new, empty file system in memory; `size` in bytes, None for the kernel's default."""

    target: str
    size: int | None = None
    mode: int = 0o755

    def __post_init__(self) -> None:
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        size = "default size" if self.size is None else f"{self.size} bytes"
        return f"tmpfs on {self.target}, mode {self.mode:04o}, {size}"


@dataclass(frozen=True, slots=True)
class Proc:
    """The process file system of the container's own PID namespace."""

    target: str = "/proc"

    def __post_init__(self) -> None:
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        return f"proc on {self.target}"


@dataclass(frozen=True, slots=True)
class Devices:
    """A read-only directory of device nodes of the host, with everything else ``/dev`` needs.

    That is: ``fd``, ``stdin``, ``stdout``, ``stderr``, and mount points ``shm`` and
    ``pts`` with the link ``ptmx``, for `SharedMemory` and `PseudoTerminals`.
    """

    target: str = "/dev"
    nodes: tuple[str, ...] = DEVICES

    def __post_init__(self) -> None:
        check_target(self.target)
        for node in self.nodes:
            if not node or "/" in node or node in (".", ".."):
                raise ValueError(f"`{node}' is no name of a device")

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        return f"devices {', '.join(self.nodes)} on {self.target}"


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """A tmpfs of mode 1777 for POSIX shared memory."""

    target: str = "/dev/shm"  # noqa: S108 - inside the container it is private

    def __post_init__(self) -> None:
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        return f"shared memory on {self.target}"


@dataclass(frozen=True, slots=True)
class PseudoTerminals:
    """An own instance of devpts, whose ``ptmx`` anybody may open."""

    target: str = "/dev/pts"

    def __post_init__(self) -> None:
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        return f"devpts on {self.target}"


Operation = (
    Bind | File | Directory | Symlink | Tmpfs | Proc | Devices | SharedMemory | PseudoTerminals
)


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


Identity = HostIdentity | GuestIdentity | SameIdentity


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
        texts = (
            self.program,
            *self.arguments,
            *(text for pair in self.environment for text in pair),
        )
        if any(b"\0" in text for text in texts):
            raise ValueError("arguments and environment may not contain NUL")
        if any(b"=" in name or not name for name, _ in self.environment):
            raise ValueError("the name of an environment variable may not be empty or contain `='")


class Persona(Enum):
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
        return self.persona.value | flags | (0 if self.randomise_addresses else no_randomise)


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource limit: a number of `resource.RLIMIT_…`, and values of which -1 is infinite."""

    resource: int
    soft: int
    hard: int


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
    """

    command: Command
    identity: Identity
    root: Root = field(default_factory=Root)
    operations: tuple[Operation, ...] = ()
    namespaces: tuple[Namespace, ...] = ALL_NAMESPACES
    host_name: str = "localhost"
    domain_name: str = "(none)"
    personality: Personality = field(default_factory=Personality)
    limits: tuple[Limit, ...] = ()
    sacrifice: bool = True
    filter_system_calls: bool = True

    def __post_init__(self) -> None:
        isolated = set(self.namespaces) - {Namespace.NETWORK}
        if isolated and isolated != set(ALL_NAMESPACES) - {Namespace.NETWORK}:
            raise ValueError("a container needs mount, pid, ipc and uts namespaces, or none")
        if not isolated and self.namespaces:
            raise ValueError("a network namespace needs the others too")
        if not isolated and isinstance(self.identity, GuestIdentity):
            raise ValueError("a user namespace needs the other namespaces too")
        self._check_operations()
        for name in (self.host_name, self.domain_name):
            if len(name.encode()) > MAX_HOST_NAME:
                raise ValueError(f"`{name}' is longer than a host name may be")

    def _check_operations(self) -> None:
        """Refuse operations below proc: it is mounted last, by the container's first process."""
        procs = [i.target + "/" for i in self.operations if isinstance(i, Proc)]
        for proc in procs:
            for operation in self.operations:
                if operation.target.startswith(proc):
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


def _depth(operation: Operation) -> int:
    return operation.target.count("/")


def _is_redundant(operation: Operation, outer: Bind | None) -> bool:
    """Tell whether a bind shows what another one shows at the same place already."""
    if outer is None or not isinstance(operation, Bind):
        return False
    below = operation.target.removeprefix(outer.target)
    same_place = operation.source == outer.source.rstrip("/") + below
    same_access = (operation.read_only, operation.devices) == (outer.read_only, outer.devices)
    return same_place and same_access


def _covering(operation: Operation, placed: dict[str, Operation]) -> Bind | None:
    """Give the bind that covers a target, unless something else lies between them."""
    parent = operation.target
    while parent := parent.rpartition("/")[0]:
        outer = placed.get(parent)
        if outer is not None:
            return outer if isinstance(outer, Bind) else None
    return None


def arrange(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Order operations so that they can be executed, and drop those without effect.

    Parents come before what lies in them; among operations of one depth the given order
    stays. Of several operations with one target the last wins. A bind of what the bind of
    a parent directory shows there anyway, with the same access, is dropped.
    """
    last = {operation.target: operation for operation in operations}
    placed: dict[str, Operation] = {}
    for operation in sorted(last.values(), key=_depth):
        outer = _covering(operation, placed)
        if not _is_redundant(operation, outer):
            placed[operation.target] = operation
    return tuple(placed.values())
