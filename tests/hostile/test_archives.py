# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives that the canonical writer would not write, through both sockets."""

import os
from collections.abc import Callable

import pytest

from tests.hostile.conftest import Victim
from tests.hostile.peers import RawGuix, RawNative, string, strings, u64

VERSIONS = (0x10B, 0x115, 0x161, 0x164)
HUGE = (1 << 64) - 1

START = string("nix-archive-1")
FILE = strings("(", "type", "regular", "contents", "content", ")")
DIRECTORY = strings("(", "type", "directory")


def entry(name: bytes | str, node: bytes = FILE) -> bytes:
    """Write an entry of a directory."""
    return strings("entry", "(", "name", name, "node") + node + string(")")


def tree(*entries: bytes) -> bytes:
    """Write the archive of a directory."""
    return START + DIRECTORY + b"".join(entries) + string(")")


def nested(depth: int) -> bytes:
    """Write the beginning of directories in each other."""
    return START + DIRECTORY + (strings("entry", "(", "name", "d", "node") + DIRECTORY) * depth


BAD = {
    "nothing like it": (b"PK\3\4" + bytes(60), "normalized archive"),
    "another version": (string("nix-archive-2") + FILE, "normalized archive"),
    "a longer magic": (string("nix-archive-1x") + FILE, "normalized archive"),
    "a word of endless length": (u64(HUGE), "normalized archive"),
    "no type": (START + strings("(", ")"), "expected `type'"),
    "an unknown type": (START + strings("(", "type", "device"), "expected `regular'"),
    "an unknown field": (START + strings("(", "type", "regular", "mode"), "expected"),
    "executable with a value": (START + strings("(", "type", "regular", "executable", "x"), "`x'"),
    "a file of 2^64-1 bytes": (
        START + strings("(", "type", "regular", "contents") + u64(HUGE),
        f"a file of {HUGE} bytes",
    ),
    "a file of 2^63 bytes": (
        START + strings("(", "type", "regular", "contents") + u64(1 << 63),
        f"a file of {1 << 63} bytes",
    ),
    "padding in content": (
        START + strings("(", "type", "regular", "contents") + u64(1) + b"x\0\0\0\0\0\0\1",
        "padding",
    ),
    "contents twice": (
        START + strings("(", "type", "regular", "contents", "a", "contents", "b", ")"),
        "expected `)'",
    ),
    "a link to nothing": (START + strings("(", "type", "symlink", "target", "", ")"), "target"),
    "a link with a NUL": (START + strings("(", "type", "symlink", "target", "a\0b"), "target"),
    "a link too long": (
        START + strings("(", "type", "symlink", "target") + u64(HUGE),
        f"link target of {HUGE} bytes",
    ),
    "an empty name": (tree(entry("")), "invalid file name"),
    "a dot": (tree(entry(".")), "invalid file name `.'"),
    "two dots": (tree(entry("..")), "invalid file name `..'"),
    "a slash": (tree(entry("a/b")), "invalid file name `a/b'"),
    "an absolute name": (tree(entry("/etc")), "invalid file name `/etc'"),
    "a NUL in a name": (tree(entry("a\0b")), "invalid file name"),
    "a name too long": (tree(entry("x" * 256)), "file name of 256 bytes"),
    "a name of endless length": (
        START + DIRECTORY + strings("entry", "(", "name") + u64(HUGE),
        f"file name of {HUGE} bytes",
    ),
    "names unsorted": (tree(entry("b"), entry("a")), "not sorted: `a' comes late"),
    "a name twice": (tree(entry("a"), entry("a")), "`a' occurs twice"),
    "a link, then a directory of its name": (
        tree(
            entry("a", strings("(", "type", "symlink", "target", "/etc", ")")),
            entry("a", DIRECTORY + entry("evil") + string(")")),
        ),
        "`a' occurs twice",
    ),
    "an entry without a node": (
        START + DIRECTORY + strings("entry", "(", "name", "a", ")"),
        "expected `node'",
    ),
    "nesting without end": (nested(100_000), "more than 64 directories in each other"),
}

by_fault = pytest.mark.parametrize(("archive", "word"), BAD.values(), ids=BAD)


@pytest.mark.parametrize("version", VERSIONS)
@by_fault
def test_a_malformed_archive_ends_its_session(
    victim: Victim, archive: bytes, word: str, version: int
):
    """The error names the fault, whichever version the client speaks."""
    known = victim.bystander.all_valid_paths()
    with victim.guix(version) as peer:
        begin_guix(peer, recursive=True)
        peer.send(archive)
        assert word in peer.error()
        assert peer.is_closed()
    assert victim.bystander.all_valid_paths() == known


@by_fault
def test_a_flat_addition_reads_no_less_strictly(victim: Victim, archive: bytes, word: str):
    """What comes after the point of refusal is checked as well."""
    with victim.guix() as peer:
        begin_guix(peer, recursive=False)
        peer.send(archive)
        assert word in peer.error()
        assert peer.is_closed()


@by_fault
def test_the_native_dialect_refuses_the_same(victim: Victim, archive: bytes, word: str):
    """In the same words, and there the session goes on."""
    with victim.native() as peer:
        begin_native(peer)
        send_body(peer, archive)
        error = peer.answer(0)
        assert error["reason"] == "invalid-nar"
        assert word in error["message"]
        peer.tell(type="request", id=1, method="is-valid", params={"path": victim.item})
        assert peer.answer(1)["result"] == {"valid": True}


def begin_guix(peer: RawGuix, *, recursive: bool, name: str = "hostile") -> None:
    """Send what precedes an archive."""
    peer.send(u64(7) + string(name) + u64(1, int(recursive)) + string("sha256"))


def begin_native(peer: RawNative) -> None:
    """Send what precedes an archive."""
    peer.tell(type="request", id=0, method="add", params={"name": "hostile"})


def send_body(peer: RawNative, data: bytes) -> None:
    """Send no more than the window holds, since the rest would be a fault of another kind."""
    for start in range(0, min(len(data), 900_000), 100_000):
        peer.tell(type="chunk", id=0, data=data[start : start + 100_000])
    peer.tell(type="end", id=0)


def test_a_flat_addition_of_a_tree_fails_alone(victim: Victim):
    """The archive is a good one: its end is found, and the session goes on."""
    link = START + strings("(", "type", "symlink", "target", "/etc/passwd", ")")
    with victim.guix() as peer:
        for archive in (tree(entry("a"), entry("b")), link):
            begin_guix(peer, recursive=False)
            peer.send(archive)
            assert "regular file expected" in peer.error()
        assert peer.is_served(victim.item)


@pytest.mark.parametrize("algorithm", ["", "md4", "sha999", "SHA256 ", "x" * 60_000])
def test_an_unknown_algorithm_fails_alone(victim: Victim, algorithm: str):
    """The archive behind it is read and dropped."""
    with victim.guix() as peer:
        peer.send(u64(7) + string("n") + u64(1, 1) + string(algorithm) + START + FILE)
        assert "hash" in peer.error()
        assert peer.is_served(victim.item)


@pytest.mark.parametrize("begin", [begin_guix, begin_native])
def test_an_archive_may_end_anywhere(victim: Victim, begin: Callable[..., None]):
    """At each word of it; nothing of it stays."""
    whole = tree(entry("a"), entry("d", DIRECTORY + entry("x") + string(")")))
    for size in range(0, len(whole), 8):
        if begin is begin_guix:
            with victim.guix() as peer:
                begin_guix(peer, recursive=True, name="cut-short")
                peer.send(whole[:size])
        else:
            with victim.native() as native:
                begin_native(native)
                native.tell(type="chunk", id=0, data=whole[:size])
    assert not [path for path in victim.bystander.all_valid_paths() if "cut-short" in path]


def test_a_file_that_is_announced_but_never_comes_takes_no_room(victim: Victim):
    """Neither in memory nor on disk: 2^62 bytes are only a claim."""
    head = START + strings("(", "type", "regular", "contents") + u64(1 << 62)
    with victim.guix() as peer:
        begin_guix(peer, recursive=True)
        peer.send(head + bytes(1 << 20))
        assert victim.bystander.is_valid(victim.item)
        room = os.statvfs(victim.daemon.store)
        assert room.f_bavail > 0


def test_a_large_archive_is_not_kept_in_memory(victim: Victim):
    """A hundred megabytes of content, cut off at the end."""
    head = START + strings("(", "type", "regular", "contents") + u64(100 << 20)
    with victim.guix() as peer:
        begin_guix(peer, recursive=True)
        peer.send(head)
        for _ in range(99):
            peer.send(bytes(1 << 20))


def test_a_directory_of_many_entries_is_not_kept_in_memory(victim: Victim):
    """Ten thousand names, of which the last comes too early."""
    names = (f"{number:0200}" for number in range(10_000))
    link = strings("(", "type", "symlink", "target", "x", ")")
    with victim.guix() as peer:
        begin_guix(peer, recursive=True)
        peer.send(START + DIRECTORY)
        peer.send(b"".join(entry(name, link) for name in names))
        peer.send(entry("0"))
        assert "comes late" in peer.error()
        assert peer.is_closed()


def test_the_deepest_archive_is_added(victim: Victim):
    """The limit is where it is said to be."""
    close = strings(")", ")") * 63 + string(")")
    with victim.guix() as peer:
        begin_guix(peer, recursive=True, name="deep")
        peer.send(nested(63) + close)
        assert peer.outcome() == ""
