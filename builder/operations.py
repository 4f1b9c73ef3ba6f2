# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be mounted and made in the root of a container, as plain data.

Each operation has a `target`, a path of the container, and describes itself in a line.
Entry point: `arrange`, which orders operations so that they can be executed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
"""The devices that every builder may use; the planner adds ``kvm`` where it exists."""


def check_path(path: str) -> None:
    """Refuse a path that is not plain and absolute.

    Raises:
        ValueError: The path is relative, or has ``..``, ``.``, double slashes or a NUL.
    """
    if path != "/":
        check_target(path)


def check_target(path: str) -> None:
    """Refuse a path that no operation may have as its target: a rough one, or the root.

    Raises:
        ValueError: See there.
    """
    if path == "/":
        raise ValueError("operations lie below the root; see `Root` for the root itself")
    slashed = path + "/"
    rough = "//" in slashed or "/./" in slashed or "/../" in slashed or "\0" in path
    if rough or not path.startswith("/"):
        raise ValueError(f"`{path}' is not a plain absolute path")


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
        if self.source != self.target:
            check_path(self.source)
        check_target(self.target)

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        access = "read-only" if self.read_only else "writable"
        return f"bind {self.source} to {self.target}, {access}"


@dataclass(frozen=True, slots=True)
class StoreView:
    """A directory of items of the store that also takes new ones; needs root.

    A mount for each of ten thousand items takes longer than most builds, and a mount
    namespace holds no more than 100,000. So this is one overlay file system: a layer in
    memory says which items there are and where each is, and what is made lies in `upper`.

    Attributes:
        source: The store directory.
        target: Where the items appear inside.
        items: The names of the items, one a line.
        upper: A directory of the host that holds nothing but `UPPER_NAME`, which takes what
            is made; nobody else may write there while the container exists.
        work: An empty directory of the same file system, for the kernel.
    """

    source: str
    target: str
    items: str
    upper: str
    work: str

    def __post_init__(self) -> None:
        check_target(self.target)
        for path in (self.source, self.upper, self.work):
            check_path(path)
        lines = f"\n{self.items}\n"
        if "/" in lines or "\n\n" in lines or "\n.\n" in lines or "\n..\n" in lines:
            raise ValueError("an item of a view has a name that no item can have")

    def describe(self) -> str:
        """Say in a line what this does, for logs."""
        count = self.items.count("\n") + 1
        return f"view of {count} items of {self.source} at {self.target}"


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


UPPER_NAME = "made"
"""The one directory in the `upper` of a `StoreView`; no item of a store is named like it."""

Operation = (
    Bind
    | StoreView
    | File
    | Directory
    | Symlink
    | Tmpfs
    | Proc
    | Devices
    | SharedMemory
    | PseudoTerminals
)


def _depth(target: str) -> int:
    return target.count("/")


def _is_redundant(bind: Bind, placed: Mapping[str, Operation]) -> bool:
    """Tell whether the bind of a parent directory shows the same at this place already."""
    parent = bind.target
    while parent := parent.rpartition("/")[0]:
        outer = placed.get(parent)
        if outer is not None:
            return (
                isinstance(outer, Bind)
                and bind.read_only == outer.read_only
                and bind.devices == outer.devices
                and bind.source == outer.source.rstrip("/") + bind.target.removeprefix(parent)
            )
    return False


def arrange(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Order operations so that they can be executed, and drop those without effect.

    Parents come before what lies in them; among operations of one depth the given order
    stays. Of several operations with one target the last wins. A bind of what the bind of
    a parent directory shows there anyway, with the same access, is dropped.
    """
    last = {operation.target: operation for operation in operations}
    placed: dict[str, Operation] = {}
    for target in sorted(last, key=_depth):
        operation = last[target]
        if not (isinstance(operation, Bind) and _is_redundant(operation, placed)):
            placed[target] = operation
    return tuple(placed.values())
