# SPDX-License-Identifier: GPL-3.0-or-later
"""A container description in the form that a child executes.

A child that was just forked pays for each page of memory it touches. So everything that
can be computed before is: a script is made of tuples, bytes and numbers only, and paths
are split and encoded. The daemon does that, and sends the script to the spawner in the form
that takes Python the least time: both run the same interpreter.

Entry points: `translate`, `pack` and `unpack`.
"""

import marshal
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from builder.container import (
    Bind,
    Container,
    Devices,
    Directory,
    File,
    GuestIdentity,
    HostIdentity,
    Identity,
    Operation,
    Proc,
    PseudoTerminals,
    SharedMemory,
    StoreView,
    Symlink,
    Tmpfs,
    UplinkIdentity,
)
from builder.spawner.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    mount_attributes,
)

Step = tuple[Any, ...]
"""The operation's position, the kind of action, the parent directory, the name, and more."""

BIND, MAKE_FILE, MAKE_DIRECTORY, MAKE_LINK, MOUNT, MAKE_DEVICES, VIEW_STORE = range(7)

_GENERAL = frozenset({Directory, Tmpfs, Devices, SharedMemory, PseudoTerminals})
_Furniture = (
    Bind | StoreView | File | Directory | Symlink | Tmpfs | Devices | SharedMemory | PseudoTerminals
)

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_ATTRIBUTES = {
    (read_only, devices): mount_attributes(
        MOUNT_ATTR_NOSUID
        | (MOUNT_ATTR_RDONLY if read_only else 0)
        | (0 if devices else MOUNT_ATTR_NODEV)
    )
    for read_only in (True, False)
    for devices in (True, False)
}
"""What mount_setattr(2) is told of a bind, by whether it is read-only and has devices."""


class Guest(NamedTuple):
    """The maps of a user namespace, as the kernel takes them.

    `locked_uid_map` and `locked_gid_map` are those of the second user namespace, which locks
    mounts. `is_root` says that the guest's user is root outside.
    """

    uid_map: bytes
    gid_map: bytes
    more_gids: bytes
    lock_mounts: bool
    locked_uid_map: bytes
    locked_gid_map: bytes
    is_root: bool


class Uplink(NamedTuple):
    """What brings a network to the container of a process.

    `joins` says that its user namespace is to be joined, for there is no other privilege.
    """

    pid: int
    joins: bool


class Groundwork(NamedTuple):
    """What can be done before anybody knows what runs in the container, or on what.

    Nothing of it shows files of the host. It is much the same for all builds.
    """

    host_name: bytes
    domain_name: bytes
    root: bytes | None
    steps: tuple[Step, ...]


class Script(NamedTuple):
    """All that a child needs; see `builder.container.Container` for the meanings.

    `steps` come after those of the groundwork. `procs` are the operations that only a process
    of the container's own can do, since proc shows the PID namespace of who mounts it:
    position, parent directory, name.
    """

    isolated: bool
    network: bool
    loopback: bool
    gated: bool
    uplink: Uplink | None
    groundwork: Groundwork
    root_mode: int
    steps: tuple[Step, ...]
    procs: tuple[tuple[int, bytes, bytes], ...]
    directory: bytes
    personality: int
    limits: tuple[tuple[int, int, int], ...]
    sacrifice: bool
    ids: tuple[int, int, tuple[int, ...]] | None
    guest: Guest | None
    filtered: bool
    program: bytes
    beneath: bytes | None
    arguments: tuple[bytes, ...]
    environment: tuple[tuple[bytes, bytes], ...]
    terminal: tuple[int, int] | None


def translate(container: Container) -> Script:
    """Give the script for a container."""
    command, identity, terminal = container.command, container.identity, container.terminal
    isolated = container.isolated
    first, later, procs = _divide(container.operations if isolated else ())
    return Script(
        isolated=isolated,
        network="network" in container.namespaces,
        loopback=container.loopback,
        gated=container.awaits_network,
        uplink=_uplink(identity),
        groundwork=_groundwork(container, first),
        root_mode=container.root.mode,
        steps=later,
        procs=procs,
        directory=os.fsencode(command.directory),
        personality=container.personality.number,
        limits=tuple([(i.resource, i.soft, i.hard) for i in container.limits]),
        sacrifice=container.sacrifice,
        ids=_ids(identity),
        guest=_guest(identity, gated=container.awaits_network),
        filtered=container.filter_system_calls,
        program=command.program,
        beneath=None if command.beneath is None else os.fsencode(command.beneath),
        arguments=command.arguments,
        environment=command.environment,
        terminal=None if terminal is None else (terminal.columns, terminal.rows),
    )


def pack(script: Script) -> bytes:
    """Give a script as octets, for the channel."""
    plain = [tuple(part) if isinstance(part, tuple) else part for part in script]
    return marshal.dumps(tuple(plain))


def unpack(data: bytes) -> Script:
    """Give the script again; the data must be what `pack` made in the same interpreter."""
    script = Script(*marshal.loads(data))  # noqa: S302 - the daemon decides all anyway
    return script._replace(
        groundwork=Groundwork(*script.groundwork),
        uplink=None if script.uplink is None else Uplink(*script.uplink),
        guest=None if script.guest is None else Guest(*script.guest),
    )


def _groundwork(container: Container, steps: tuple[Step, ...]) -> Groundwork:
    root = container.root.path
    return Groundwork(
        container.host_name.encode(),
        container.domain_name.encode(),
        None if root is None else os.fsencode(root),
        steps,
    )


def _divide(
    operations: Iterable[Operation],
) -> tuple[tuple[Step, ...], tuple[Step, ...], tuple[tuple[int, bytes, bytes], ...]]:
    """Divide into the steps that any container may begin with, the others, and the procs.

    Files are small and differ, such as the one that names the user. What lies in a place
    that another step makes must wait for that.
    """
    first: list[Step] = []
    later: list[Step] = []
    procs: list[tuple[int, bytes, bytes]] = []
    waiting: set[str] = set()
    for at, operation in enumerate(operations):
        if isinstance(operation, Proc):
            parent, _, name = os.fsencode(operation.target).rpartition(b"/")
            procs.append((at, parent, name))
        elif type(operation) in _GENERAL and not _lies_in(operation.target, waiting):
            first.append(_step(at, operation))
        else:
            later.append(_step(at, operation))
            waiting.add(operation.target)
    return tuple(first), tuple(later), tuple(procs)


def _lies_in(target: str, places: set[str]) -> bool:
    while target := target.rpartition("/")[0]:
        if target in places:
            return True
    return False


def _ids(identity: Identity) -> tuple[int, int, tuple[int, ...]] | None:
    if isinstance(identity, HostIdentity):
        return identity.uid, identity.gid, identity.groups
    return None


def _uplink(identity: Identity) -> Uplink | None:
    if isinstance(identity, UplinkIdentity):
        return Uplink(identity.pid, joins=os.geteuid() != 0)
    return None


def _guest(identity: Identity, *, gated: bool) -> Guest | None:
    if not isinstance(identity, GuestIdentity):
        return None
    # slirp4netns confines itself only as user 0 of the namespace that it joins, so there is
    # one in the first, which only it and the setting up of the container ever see.
    uid, gid = (0, 0) if gated else (identity.uid, identity.gid)
    return Guest(
        uid_map=b"%d %d 1\n" % (uid, os.geteuid()),
        gid_map=b"%d %d 1\n" % (gid, os.getegid()),
        more_gids=b"".join(b"%d %d 1\n" % pair for pair in identity.extra_gids),
        lock_mounts=identity.lock_mounts or gated,
        locked_uid_map=b"%d %d 1\n" % (identity.uid, uid),
        locked_gid_map=b"%d %d 1\n" % (identity.gid, gid),
        is_root=os.geteuid() == 0,
    )


def _step(at: int, operation: _Furniture) -> Step:
    parent, _, name = operation.target.encode(_ENCODING, _ERRORS).rpartition(b"/")
    match operation:
        case Bind():
            source = operation.source.encode(_ENCODING, _ERRORS)
            attributes = _ATTRIBUTES[operation.read_only, operation.devices]
            return (at, BIND, parent, name, source, attributes, not operation.optional)
        case File():
            return (at, MAKE_FILE, parent, name, operation.contents, operation.mode)
        case Directory():
            uid, gid = operation.uid, operation.gid
            owner = (-1 if uid is None else uid, -1 if gid is None else gid)
            return (at, MAKE_DIRECTORY, parent, name, operation.mode, *owner)
        case Symlink():
            return (at, MAKE_LINK, parent, name, os.fsencode(operation.destination))
        case Devices():
            nodes = sorted([node.encode(_ENCODING, _ERRORS) for node in operation.nodes])
            return (at, MAKE_DEVICES, parent, name, tuple(nodes))
        case _:
            return _mount(at, operation, parent, name)


def _mount(
    at: int,
    operation: StoreView | Tmpfs | SharedMemory | PseudoTerminals,
    parent: bytes,
    name: bytes,
) -> Step:
    if isinstance(operation, StoreView):
        return (at, VIEW_STORE, parent, name, *_view(operation))
    return (at, MOUNT, parent, name, *_file_system(operation))


def _view(operation: StoreView) -> tuple[bytes, bytes, bytes, bytes]:
    """Give the store, the names of the items, and the directories of what is made."""
    return (
        os.fsencode(operation.source),
        os.fsencode(operation.items),
        os.fsencode(operation.upper),
        os.fsencode(operation.work),
    )


def _file_system(
    operation: Tmpfs | SharedMemory | PseudoTerminals,
) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], int]:
    """Give its type, its options and its mount attributes."""
    plain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    match operation:
        case SharedMemory():
            return b"tmpfs", ((b"mode", b"1777"),), plain
        case PseudoTerminals():
            options = (b"mode", b"0620"), (b"ptmxmode", b"0666")
            return b"devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
        case Tmpfs():
            mode = (b"mode", b"%o" % operation.mode)
            size = () if operation.size is None else ((b"size", b"%d" % operation.size),)
            return b"tmpfs", (mode, *size), plain
