# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptions of containers: what they refuse, how they are ordered, how they travel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.container import (
    Bind,
    Command,
    Container,
    Devices,
    Directory,
    File,
    GuestIdentity,
    HostIdentity,
    Limit,
    Namespace,
    Operation,
    Persona,
    Personality,
    Proc,
    PseudoTerminals,
    Root,
    SameIdentity,
    SharedMemory,
    StoreView,
    Symlink,
    Tmpfs,
    arrange,
)
from builder.spawner.script import pack, translate, unpack

COMMAND = Command(b"/bin/sh", (b"sh",))
EVERYTHING: tuple[Operation, ...] = (
    Bind("/a", "/b", read_only=False, optional=True, devices=True),
    File("/etc/passwd", b"\xff\0", 0o600),
    Directory("/tmp", 0o1777, 1, None),
    Symlink("/link", "anything at all"),
    Tmpfs("/scratch", 4096, 0o700),
    Proc(),
    Devices(nodes=("null",)),
    SharedMemory(),
    PseudoTerminals(),
)


@pytest.mark.parametrize(
    "path", ["relative", "/a/../b", "/a//b", "/a/", "/./a", "//a", "/a\0", "/", ""]
)
def test_targets_are_plain_paths_below_the_root(path: str) -> None:
    """A path that would have to be interpreted is refused where it is described."""
    for kind in (Directory, Tmpfs, Proc, SharedMemory, PseudoTerminals, Devices):
        with pytest.raises(ValueError, match=r"path|below the root"):
            kind(path)
    for make in (
        lambda: Bind("/a", path),
        lambda: File(path, b""),
        lambda: Symlink(path, "x"),
    ):
        with pytest.raises(ValueError, match=r"path|below the root"):
            make()


def test_names_of_devices_are_no_paths() -> None:
    """A device is named, not searched for."""
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(ValueError, match="no name of a device"):
            Devices(nodes=(name,))


def test_items_of_a_view_are_names() -> None:
    """Wherever in the list it stands, what is no name is refused; a name may hold dots."""
    for items in ("", ".", "..", "a\n", "\na", "a\n\nb", "a\n.\nb", "..\na", "a/b", "a\n/b"):
        with pytest.raises(ValueError, match="a name that no item can have"):
            StoreView("/store", "/store", items, "/upper", "/work")
    StoreView("/store", "/store", ".a\n..b\nc.", "/upper", "/work")


def test_namespaces_come_together() -> None:
    """A container is isolated or not; only the network may be shared."""
    without_network = tuple(i for i in Namespace if i is not Namespace.NETWORK)
    assert Container(COMMAND, SameIdentity(), namespaces=without_network).isolated
    assert not Container(COMMAND, SameIdentity(), namespaces=()).isolated
    for some in ((Namespace.NETWORK,), (Namespace.PID, Namespace.MOUNT)):
        with pytest.raises(ValueError, match="namespace"):
            Container(COMMAND, SameIdentity(), namespaces=some)
    with pytest.raises(ValueError, match="user namespace"):
        Container(COMMAND, GuestIdentity(), namespaces=())


def test_impossible_containers_are_refused() -> None:
    """A host name that is too long; something inside of proc."""
    with pytest.raises(ValueError, match="host name"):
        Container(COMMAND, SameIdentity(), host_name="x" * 65)
    with pytest.raises(ValueError, match="process file system"):
        Container(COMMAND, SameIdentity(), operations=(Proc(), File("/proc/x", b"")))


@pytest.mark.parametrize(
    ("personality", "number"),
    [
        (Personality(), 0x0040000),
        (Personality(Persona.LINUX_32), 0x0040008),
        (Personality(linux_26=True), 0x0060000),
        (Personality(randomise_addresses=True), 0),
    ],
)
def test_personality_has_the_kernels_number(personality: Personality, number: int) -> None:
    """The flags are those of <linux/personality.h>."""
    assert personality.number == number


@pytest.mark.parametrize(
    "identity",
    [HostIdentity(1, 2, (3, 4)), GuestIdentity(extra_gids=((40000, 36),)), SameIdentity()],
)
def test_descriptions_survive_the_channel(
    identity: HostIdentity | GuestIdentity | SameIdentity,
) -> None:
    """What the spawner unpacks equals what the daemon packed."""
    command = Command(b"/\xff", (b"\xfe", b""), ((b"A", b"\xfd"),), "/tmp", "/gnu/store")
    container = Container(
        command,
        identity,
        Root("/root", 0o500),
        EVERYTHING,
        personality=Personality(Persona.LINUX_32),
        limits=(Limit(7, 1, -1),),
    )
    script = translate(container)
    assert unpack(pack(script)) == script


def test_every_operation_is_described() -> None:
    """A line for the log names the target; a container describes all its operations."""
    lines = list(Container(COMMAND, SameIdentity(), operations=EVERYTHING).describe())
    for operation in EVERYTHING:
        assert any(operation.target in line for line in lines)
    assert len(lines) == 3 + len(EVERYTHING)


def test_parents_come_first_and_the_last_of_one_target_wins() -> None:
    """Among targets of one depth the given order stays."""
    first, second = Bind("/x", "/gnu/store/b"), Bind("/x", "/gnu/store/a")
    deep, root = File("/gnu/store/a/b/c", b""), Directory("/gnu")
    replaced, winner = File("/etc", b""), Directory("/etc")
    arranged = arrange([deep, replaced, first, second, root, winner])
    assert arranged == (winner, root, first, second, deep)


def test_binds_without_effect_are_dropped() -> None:
    """What a bind of the parent directory shows anyway needs no mount."""
    outer = Bind("/usr", "/usr")
    same = Bind("/usr/lib/x", "/usr/lib/x")
    writable = Bind("/usr/tmp", "/usr/tmp", read_only=False)
    elsewhere = Bind("/opt/x", "/usr/x")
    assert arrange([same, writable, elsewhere, outer]) == (outer, writable, elsewhere, same)[:3]
    hidden = Tmpfs("/usr/lib")
    assert same in arrange([outer, hidden, same])


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda i: "/" + "/".join(i))
OPERATIONS = st.one_of(
    st.builds(Bind, PATHS, PATHS, st.booleans()),
    st.builds(Directory, PATHS),
    st.builds(Tmpfs, PATHS),
)


def shown(operations: tuple[Operation, ...], path: str) -> tuple[object, ...]:
    """Tell what is at a path: by the last operation that covers it."""
    covering = [i for i in operations if (path + "/").startswith(i.target + "/")]
    for operation in reversed(covering):
        if isinstance(operation, Bind):
            source = operation.source + path.removeprefix(operation.target)
            return ("bind", source, operation.read_only)
        if isinstance(operation, Tmpfs) or operation.target == path:
            return ("other", operation)
    return ("nothing",)


@given(st.lists(OPERATIONS, max_size=8), PATHS)
def test_arranging_changes_nothing_but_the_order(operations: list[Operation], path: str) -> None:
    """What is dropped did not show; parents precede children; arranging again changes nothing."""
    arranged = arrange(operations)
    last = {operation.target: operation for operation in operations}
    ordered = tuple(sorted(last.values(), key=lambda i: i.target.count("/")))
    assert shown(arranged, path) == shown(ordered, path)
    for at, operation in enumerate(arranged):
        assert not any((i.target + "/").startswith(operation.target + "/") for i in arranged[:at])
    assert arrange(arranged) == arranged
