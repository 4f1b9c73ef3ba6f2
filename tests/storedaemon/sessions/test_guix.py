# SPDX-License-Identifier: GPL-3.0-or-later
"""A real daemon as Guix clients see it: answers, errors, and what ends a connection."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import turns
from store.nar.events import Content, Directory, DirectoryEnd, Regular, Symlink
from store.nar.writer import write
from storedaemon.wire import guix
from storedaemon.wire import messages as m
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import ConnectionEndedError, GuixClient, RequestFailedError


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[GuixClient]:
    """A connected client."""
    with GuixClient(daemon.guix_socket) as client:
        yield client


def file_nar(content: bytes, *, executable: bool = False) -> list[bytes]:
    """Give the archive of one file."""
    events = [Regular(b"", executable, len(content)), Content(memoryview(content))]
    return [bytes(piece) for piece in write(events if content else events[:1])]


def tree_nar() -> list[bytes]:
    """Give the archive of a small directory."""
    events = [
        Directory(b""),
        Regular(b"a", False, 2),
        Content(memoryview(b"a\n")),
        Symlink(b"b", b"a"),
        DirectoryEnd(),
    ]
    return [bytes(piece) for piece in write(events)]


def word(value: int) -> bytes:
    """Give an integer's bytes."""
    return value.to_bytes(8, "little")


def everything(sock: socket.socket) -> bytes:
    """Read until the daemon closes the connection."""
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


def test_the_recorded_handshake_conversation(client: GuixClient, daemon: RunningDaemon):
    """Absent items are not valid, other paths are errors, and the connection goes on."""
    assert not client.is_valid(f"{daemon.store}/{'f' * 32}-nothing")
    with pytest.raises(RequestFailedError) as caught:
        client.is_valid("/not-a-store-path")
    assert caught.value.message == "path `/not-a-store-path' is not in the store"
    assert caught.value.status == 1
    assert not client.is_valid(f"{daemon.store}/short")


def test_an_answer_may_be_long(client: GuixClient):
    """A thread writes it, and requests that came meanwhile are answered after it."""
    paths = {client.add_text(f"text-{number}", b"") for number in range(turns.PORTION + 1)}
    reply = client.call(m.QueryAllValidPaths())
    assert isinstance(reply, m.TextsReply)
    assert set(reply.values) == paths
    assert client.is_valid(min(paths))


def test_the_recorded_additions_conversation(client: GuixClient, daemon: RunningDaemon):
    """Texts, flat files, trees and refused names behave as recorded."""
    hello = client.add_text("hello.txt", b"hello\n")
    refers = client.add_text("refers.txt", hello.encode() + b"\n", [hello])
    flat = client.add_nar("flat", file_nar(b"vm\n"), recursive=False)
    flat1 = client.add_nar("flat1", file_nar(b"vm\n"), recursive=False, algorithm="sha1")
    tree = client.add_nar("tree", tree_nar())
    assert client.references(refers) == (hello,)
    assert client.referrers(hello) == (refers,)
    assert Path(flat).read_bytes() == Path(flat1).read_bytes() == b"vm\n"
    assert sorted(os.listdir(tree)) == ["a", "b"]
    with pytest.raises(RequestFailedError) as caught:
        client.add_text("bad name/slash", b"x")
    assert caught.value.message == "invalid character ` ' in name `bad name/slash'"
    with pytest.raises(RequestFailedError, match="unknown hash type"):
        client.add_nar("x", file_nar(b"vm\n"), algorithm="md7")
    assert client.all_valid_paths() == tuple(sorted([hello, refers, flat, flat1, tree]))
    assert hello.startswith(daemon.store)


def test_the_recorded_queries_conversation(client: GuixClient, daemon: RunningDaemon):
    """What the recorded client asks of an item is answered in the same shape."""
    hello = client.add_text("hello.txt", b"hello\n")
    absent = f"{daemon.store}/{'f' * 32}-nothing"
    info = client.path_info(hello)
    nar = b"".join(file_nar(b"hello\n"))
    assert info.nar_hash == hashlib.sha256(nar).hexdigest()
    assert (info.nar_size, info.deriver, info.references) == (len(nar), "", ())
    assert client.call(m.QueryPathHash(hello)) == m.TextReply(info.nar_hash)
    assert client.call(m.QueryValidDerivers(hello)) == m.TextsReply(())
    assert client.call(m.QueryDeriver(hello)) == m.TextReply("")
    hash_part = hello.removeprefix(f"{daemon.store}/")[:32]
    assert client.call(m.QueryPathFromHashPart(hash_part)) == m.TextReply(hello)
    assert client.call(m.QueryPathFromHashPart("0" * 32)) == m.TextReply("")
    with pytest.raises(RequestFailedError) as caught:
        client.path_info(absent)
    assert caught.value.message == f"path `{absent}' is not valid"
    assert client.call(m.HasSubstitutes(hello)) == m.Truth(value=False)
    assert client.call(m.QuerySubstitutablePaths((hello,))) == m.TextsReply(())
    assert client.call(m.QuerySubstitutablePathInfos((hello,))) == m.SubstitutablesReply(())
    assert client.call(m.QuerySubstitutablePathInfo(hello)) == m.SubstitutableReply(None)
    assert client.call(m.SubstituteURLs()) == m.TextsReply(())
    assert client.call(m.QueryFailedPaths()) == m.TextsReply(())
    assert client.call(m.ClearFailedPaths(())) == m.Done()
    assert client.call(m.EnsurePath(hello)) == m.Done()
    with pytest.raises(RequestFailedError) as caught:
        client.call(m.EnsurePath(absent))
    assert caught.value.message == f"path `{absent}' does not exist and cannot be created"
    assert client.valid_paths([hello, absent]) == (hello,)
    assert client.call(m.AddTempRoot(absent)) == m.Done()
    assert client.call(m.SyncWithGC()) == m.Done()


@pytest.mark.parametrize("version", [0x164, 0x161, 0x160, 0x10E, 0x10A, 0x105])
def test_old_clients_are_served(daemon: RunningDaemon, version: int):
    """Fields that came later are neither expected nor sent."""
    with GuixClient(daemon.guix_socket, version) as client:
        client.set_options(verbosity=1)
        text = client.add_text("t", b"t")
        assert client.is_valid(text)
        with pytest.raises(RequestFailedError) as caught:
            client.is_valid("/x")
        assert caught.value.status == (1 if guix.minor(version) >= 8 else 0)


def test_a_client_of_another_protocol_is_cut_off(daemon: RunningDaemon):
    """It is told nothing, since it would not understand."""
    with daemon.connect_guix() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert everything(sock) == b""


def test_another_major_version_is_refused_with_a_reason(daemon: RunningDaemon):
    """The error stands where the end of the handshake would."""
    with daemon.connect_guix() as sock:
        sock.sendall(word(guix.CLIENT_MAGIC) + word(0x264) + word(0) + word(1))
        answer = everything(sock)
    assert answer.startswith(word(guix.DAEMON_MAGIC) + word(0x164) + word(guix.ERROR))
    assert b"unsupported protocol version 0x264" in answer


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (word(2), b"invalid operation 2"),
        (word(1) + word(2**64 - 1), b"IsValidPath: path: 18446744073709551615 bytes"),
        (word(31) + word(2**40), b"QueryValidPaths: paths: 1099511627776 items"),
        (word(1) + word(1) + b"x\1\0\0\0\0\0\0", b"IsValidPath: path: non-zero padding"),
        (word(9) + word(0) + word(7), b"BuildPaths: mode: 7 is not known"),
    ],
)
def test_a_request_that_cannot_be_read_ends_the_connection(
    client: GuixClient, data: bytes, message: bytes
):
    """The client learns what was wrong, even while it sends on."""
    client.socket.sendall(data + bytes(300_000))
    client.socket.shutdown(socket.SHUT_WR)
    answer = everything(client.socket)
    assert answer.startswith(word(guix.ERROR))
    assert message in answer


def test_a_malformed_archive_ends_the_connection_and_leaves_nothing(
    client: GuixClient, daemon: RunningDaemon
):
    """Where an archive ends cannot be known once it is wrong."""
    before = os.listdir(daemon.store)
    archive = [*file_nar(b"x" * 100)[:1], b"y" * 8, bytes(500_000)]
    with pytest.raises(RequestFailedError, match="bad archive"):
        client.add_nar("x", archive)
    with pytest.raises((ConnectionEndedError, BrokenPipeError)):
        client.is_valid("/x")
    assert os.listdir(daemon.store) == before


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_refused_addition_is_read_to_its_end(client: GuixClient, size: int):
    """A bad name, hash or kind of file is an error of that request alone."""
    archive = file_nar(b"x" * size)
    with pytest.raises(RequestFailedError, match="can't begin with dot"):
        client.add_nar(".x", archive)
    with pytest.raises(RequestFailedError, match="unknown hash type"):
        client.add_nar("x", archive, algorithm="crc")
    with pytest.raises(RequestFailedError, match="regular file expected"):
        client.add_nar("x", tree_nar(), recursive=False)
    path = client.add_nar("x", archive)
    assert Path(path).stat().st_size == size


def test_a_large_file_arrives_whole(client: GuixClient):
    """More than any buffer holds, flat and as an archive."""
    content = os.urandom(1 << 20) * 20
    flat = client.add_nar("big", file_nar(content), recursive=False)
    recursive = client.add_nar("big", file_nar(content, executable=True))
    for path in (flat, recursive):
        assert hashlib.sha256(Path(path).read_bytes()).digest() == hashlib.sha256(content).digest()
    assert Path(recursive).stat().st_mode & 0o111


def test_requests_may_be_sent_ahead(client: GuixClient, daemon: RunningDaemon):
    """Many requests in one go, with an archive among them, are answered in order."""
    absent = f"{daemon.store}/{'f' * 32}-nothing"
    ask = client._wire.request(m.IsValidPath(absent))
    client._wire._reply = None
    add = client._wire.request(m.AddToStore("x", recursive=True, algorithm="sha256"))
    client._wire._reply = None
    sent = ask * 500 + add + b"".join(file_nar(b"x" * 5000)) + ask * 500
    client.socket.sendall(sent)
    answer = b""
    no = word(guix.LAST) + word(0)
    while answer.count(no) < 1000:
        answer += client.socket.recv(65536)
    assert answer.startswith(no * 500)
    assert answer.endswith(no * 500)


def test_a_slow_reader_only_slows_itself(daemon: RunningDaemon):
    """Answers that nobody reads stop that client's requests, and no others'."""
    with GuixClient(daemon.guix_socket) as slow, GuixClient(daemon.guix_socket) as other:
        ask = slow._wire.request(m.BuiltinBuilders())
        slow.socket.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                slow.socket.sendall(ask * 1000)
        assert other.add_text("t", b"t")


@pytest.mark.parametrize("cut", [3, 8, 20, 40, 48, 56, 64, 100, 300])
def test_a_client_may_leave_at_any_point(daemon: RunningDaemon, cut: int):
    """The daemon neither minds nor keeps anything of it."""
    said = word(guix.CLIENT_MAGIC) + word(0x164) + word(0) + word(1)
    add = word(7) + word(1) + b"n".ljust(8, b"\0") + word(1) + word(1) + word(6) + b"sha256\0\0"
    said += add + b"".join(file_nar(b"x" * 400))
    with daemon.connect_guix() as sock:
        sock.sendall(said[:cut])
    with GuixClient(daemon.guix_socket) as client:
        assert client.all_valid_paths() == ()


def test_user_settings_are_checked(client: GuixClient):
    """A number that is none is an error of the request."""
    with pytest.raises(RequestFailedError, match="should have an integer value"):
        client.set_options(build_timeout="soon")
    client.set_options(build_timeout=5, multiplexed_build_output="true", locale="C")
