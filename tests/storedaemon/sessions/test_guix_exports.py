# SPDX-License-Identifier: GPL-3.0-or-later
"""ExportPath and ImportPaths, as Guix clients use them, with a stub of guix and without."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storedaemon.wire.guix_client import DataChunk
from tests.storedaemon import exporting
from tests.storedaemon.exporting import (
    ExportClient,
    collect,
    item,
    nar,
    number,
    signed_part,
    stream_of,
)
from tests.storedaemon.guix_client import RequestFailedError

Start = Callable[..., Any]


@pytest.fixture(params=["guix", "native"])
def signer(request: pytest.FixtureRequest, start_daemon: Start, tmp_path: Path) -> Any:
    """A daemon that signs with a stub of guix, or by itself."""
    return start_signer(start_daemon, tmp_path / "etc", request.param)


def start_signer(start_daemon: Start, configuration: Path, kind: str) -> Any:
    """Start a daemon with keys, and a stub of guix or none."""
    if kind == "guix":
        program = exporting.make_stub(str(configuration))
    else:
        exporting.make_keys(str(configuration))
        program = "/nonexistent/guix"
    return start_daemon("--configuration-directory", str(configuration), "--guix-program", program)


def connect(daemon: Any) -> ExportClient:
    """Make a client."""
    return ExportClient(daemon.guix_socket)


def trees(daemon: Any) -> list[str]:
    """What is in a store, and in the private directory of its daemon."""
    names = sorted(os.listdir(daemon.store))
    (private,) = [name for name in names if name.startswith(".incoming-")]
    inner = os.listdir(f"{daemon.store}/{private}")
    return [name for name in names if not name.startswith(".")] + inner


@pytest.fixture
def pair(start_daemon: Start, tmp_path: Path) -> Iterator[tuple[ExportClient, Any]]:
    """A client of one daemon, whose two items refer to each other, and the daemon."""
    daemon = start_signer(start_daemon, tmp_path / "etc", "native")
    with connect(daemon) as client:
        yield client, daemon


def test_an_export_has_the_bytes_of_the_reference(pair: tuple[ExportClient, Any]):
    """The archive, the trailer, and that there is no signature; and the words shown before."""
    _, signer = pair
    with connect(signer) as client:
        first = client.add_text("first", b"1")
        path = client.add_text("second", b"two", [first])
        stream = client.export(path)
        assert stream == signed_part(nar(b"two"), path, [first]) + number(0)
        assert client.text == f"exporting path `{path}'\n"
        assert client.is_valid(path)


def test_what_one_store_signs_it_takes_back(signer: Any):
    """Items that were collected come back in order, with references, hash and size."""
    with connect(signer) as client:
        first = client.add_text("first", b"1")
        second = client.add_text("second", b"two", [first])
        infos = [client.path_info(path) for path in (first, second)]
        stream = stream_of([client.export(path, sign=True) for path in (first, second)])
    collect(signer, second, first)
    with connect(signer) as client:
        assert client.import_stream(stream, piece=61) == (first, second)
        for path, info in zip((first, second), infos, strict=True):
            found = client.path_info(path)
            assert (found.nar_hash, found.nar_size) == (info.nar_hash, info.nar_size)
            assert found.references == info.references
        assert Path(second).read_bytes() == b"two"
        status = os.lstat(second)
        assert (status.st_mode & 0o7777, status.st_mtime) == (0o444, 1)
        assert not os.path.exists(f"{second}.lock")


def test_items_that_are_valid_are_read_and_left_alone(pair: tuple[ExportClient, Any]):
    """They count as imported, and the stream goes on behind them."""
    _, signer = pair
    with connect(signer) as client:
        first = client.add_text("first", b"1")
        second = client.add_text("second", b"two", [first])
        stream = stream_of([client.export(path, sign=True) for path in (first, second)])
        inode = os.lstat(second).st_ino
        assert client.import_stream(stream) == (first, second)
        assert os.lstat(second).st_ino == inode
        assert client.import_stream(number(0)) == ()
    assert len(trees(signer)) == 2


def refused(client: ExportClient, stream: bytes) -> str:
    """Import what is refused; give the words, and see that the connection lives on."""
    with pytest.raises(RequestFailedError) as caught:
        client.import_stream(stream)
    assert caught.value.status == 1
    assert client.is_valid(client.add_text("alive", b"alive"))
    return caught.value.message


def test_nobody_imports_what_is_not_signed(pair: tuple[ExportClient, Any]):
    """Not even root; the words are the reference's."""
    _, signer = pair
    with connect(signer) as client:
        path = client.add_text("item", b"bytes")
        exported = client.export(path)
    collect(signer, path)
    with connect(signer) as client:
        words = f"imported archive of `{path}' lacks a signature"
        assert refused(client, stream_of([exported])) == words
        assert not client.is_valid(path)
    assert [name for name in trees(signer) if "item" in name] == []


def test_a_signature_of_something_else_is_refused(signer: Any):
    """And so is what is no signature."""
    with connect(signer) as client:
        path = client.add_text("item", b"bytes")
        exported = client.export(path, sign=True)
    collect(signer, path)
    with connect(signer) as client:
        words = refused(client, stream_of([exported.replace(b"bytes", b"Bytes")]))
        assert words.startswith("signed hash doesn't match actual contents of imported archive;")
        assert "corrupt" in words
        part = signed_part(nar(b"bytes"), path)
        words = refused(client, stream_of([part + number(1) + exporting.string(b"(x)")]))
        assert "corrupt signature data: (x" in words
        assert not client.is_valid(path)
    assert [name for name in trees(signer) if "item" in name] == []


def test_a_key_that_is_withdrawn_counts_no_more(signer: Any):
    """Although the program that verifies is still running."""
    with connect(signer) as client:
        path = client.add_text("item", b"bytes")
        exported = client.export(path, sign=True)
        assert client.import_stream(stream_of([exported])) == (path,)
    etc = Path(next(o for o in signer.process.args if o.endswith("/etc")))
    (etc / "acl").write_text("(acl)" if (etc / "signing-key.pub").exists() else "you\n")
    with connect(signer) as client:
        assert "unauthorized public key" in refused(client, stream_of([exported]))


def test_references_must_be_there_or_come_before(pair: tuple[ExportClient, Any]):
    """An item without them is not registered, nor is its tree left."""
    _, signer = pair
    with connect(signer) as client:
        first = client.add_text("first", b"1")
        second = client.add_text("second", b"two", [first])
        exports = [client.export(path, sign=True) for path in (second, first)]
    collect(signer, second, first)
    with connect(signer) as client:
        assert refused(client, stream_of(exports)) == f"path `{first}' is not valid"
        assert not client.is_valid(second)
        assert [name for name in trees(signer) if "second" in name] == []
        assert client.import_stream(stream_of(reversed(exports))) == (first, second)


def test_what_is_no_export_is_refused(pair: tuple[ExportClient, Any]):
    """The words are the reference's where it has the same rule."""
    client, daemon = pair
    for stream, words in (
        (b"", "unexpected end-of-file"),
        (number(2), "input doesn't look like something created by `nix-store --export'"),
        (number(1) + b"no archive......", "input doesn't look like a normalized archive"),
        (number(1) + nar(b"x") + number(7), "normalized archive cannot be imported; wrong format"),
        (
            item(signed_part(nar(b"x"), "/etc/passwd"), None),
            "path `/etc/passwd' is not in the store",
        ),
    ):
        assert words in refused(client, stream + (bytes(64) if stream else b""))
    assert len(trees(daemon)) == 1


def test_what_cannot_be_exported_is_an_error(pair: tuple[ExportClient, Any]):
    """Absent, elsewhere, changed, or without a key to sign with."""
    client, daemon = pair
    absent = f"{daemon.store}/{'0' * 32}-absent"
    for path, words in (
        (absent, f"path `{absent}' is not valid"),
        ("/etc/passwd", "path `/etc/passwd' is not in the store"),
    ):
        with pytest.raises(RequestFailedError, match=words):
            client.export(path)
    path = client.add_text("item", b"bytes")
    os.chmod(path, 0o644)
    Path(path).write_text("other")
    daemon.faults_expected = False
    with pytest.raises(RequestFailedError, match=rf"hash of path `{path}' has changed from `"):
        client.export(path)


def test_a_key_that_others_can_read_signs_nothing(pair: tuple[ExportClient, Any]):
    """Nor one that is absent."""
    client, daemon = pair
    path = client.add_text("item", b"bytes")
    etc = Path(next(o for o in daemon.process.args if o.endswith("/etc")))
    (etc / "signing-key.sec").chmod(0o440)
    with pytest.raises(RequestFailedError, match="should be secret"):
        client.export(path, sign=True)
    (etc / "signing-key.sec").unlink()
    with pytest.raises(RequestFailedError, match=r"getting status of .*signing-key\.sec"):
        client.export(path, sign=True)


def test_a_client_that_leaves_within_an_import_leaves_nothing(pair: tuple[ExportClient, Any]):
    """Wherever it stops: the archive, the trailer or the signature."""
    client, daemon = pair
    path = client.add_text("item", b"bytes" * 100)
    stream = stream_of([client.export(path, sign=True)])
    collect(daemon, path)
    for end in range(8, len(stream) - 8, 97):
        leaver = connect(daemon)
        with leaver:
            leaver.send_only(exporting.m.ImportPaths())
            leaver.next_event()
            leaver.socket.sendall(leaver._wire.chunk(stream[:end]))
            leaver.next_event()
            leaver.socket.shutdown(socket.SHUT_WR)
            assert leaver.socket.recv(1) == b""
    assert trees(daemon) == []
    assert client.import_stream(stream) == (path,)


def test_every_truncation_is_an_error_and_leaves_nothing(pair: tuple[ExportClient, Any]):
    """The client says itself that there is no more."""
    client, daemon = pair
    path = client.add_text("item", b"bytes")
    stream = stream_of([client.export(path, sign=True)])
    collect(daemon, path)
    for end in range(len(stream) - 8):
        with pytest.raises(RequestFailedError, match="unexpected end-of-file"):
            client.import_stream(stream[:end])
        assert not client.is_valid(path)
    assert trees(daemon) == []


def test_a_client_that_leaves_within_an_export_leaves_nothing(pair: tuple[ExportClient, Any]):
    """What was read of the item is closed again, and others are served."""
    client, daemon = pair
    path = client.add_text("item", os.urandom(4_000_000))
    # The first request that is watched makes what watches.
    client.export(path)
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    with connect(daemon) as leaver:
        leaver.send_only(exporting.m.ExportPath(path, sign=False))
        while not isinstance(leaver.next_event(), DataChunk):
            pass
        leaver.socket.shutdown(socket.SHUT_RDWR)
    assert len(client.export(path)) > 4_000_000
    deadline = time.monotonic() + 10
    while len(os.listdir(f"/proc/{daemon.pid}/fd")) > before and time.monotonic() < deadline:
        assert client.is_valid(path)
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before
