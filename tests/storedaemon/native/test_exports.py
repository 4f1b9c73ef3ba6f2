# SPDX-License-Identifier: GPL-3.0-or-later
"""Export and import for native clients; the streams are those of Guix clients."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.storedaemon import exporting
from tests.storedaemon.exporting import ExportClient, collect, nar, number, signed_part


@pytest.fixture
def daemon(start_daemon: Callable[..., Any], tmp_path: Path) -> Any:
    """A daemon with a key of its own, which it accepts."""
    etc = tmp_path / "etc"
    exporting.make_keys(str(etc))
    return start_daemon("--configuration-directory", str(etc), "--guix-program", "/nonexistent")


def export(client: Any, **params: Any) -> tuple[bytes, list[str]]:
    """Export items; give the stream, and what the daemon says it holds."""
    answer, before = client.finish(client.begin("export", **params))
    assert answer["type"] == "reply", answer
    paths = [path for event in before for path in event.get("paths", [])]
    stream = b"".join(message["data"] for message in before if message["type"] == "chunk")
    return stream, paths + answer["result"]["paths"]


def send(client: Any, tools: Any, stream: bytes, size: int = 1 << 15) -> int:
    """Begin an import, and send all of its body."""
    number = client.begin("import")
    pieces = (stream[start : start + size] for start in range(0, len(stream), size))
    client.send(*(tools.chunk(number, piece) for piece in pieces), tools.end(number))
    return number


def test_a_closure_leaves_in_order(connect: Callable[..., Any]):
    """Each item after those it refers to; what is not asked for does not come along."""
    client = connect()
    first = client.ask("add-text", name="zz", text="1")["path"]
    second = client.ask("add-text", name="aa", text="2", references=[first])["path"]
    third = client.ask("add-text", name="mm", text="3", references=[second])["path"]
    stream, paths = export(client, paths=[third], closure=True, sign=False)
    assert paths == [first, second, third]
    parts = (
        signed_part(nar(b"1"), first),
        signed_part(nar(b"2"), second, [first]),
        signed_part(nar(b"3"), third, [second]),
    )
    assert stream == b"".join(number(1) + part + number(0) for part in parts) + number(0)
    assert export(client, paths=[third, first], sign=False)[1] == [first, third]
    assert export(client, paths=[]) == (number(0), [])


def test_both_dialects_understand_each_other(connect: Callable[..., Any], daemon: Any, tools: Any):
    """What a Guix client exports a native one imports, and the other way round."""
    client = connect()
    path = client.ask("add-text", name="item", text="x" * 200_000)["path"]
    with ExportClient(daemon.guix_socket) as guix:
        theirs = exporting.stream_of([guix.export(path, sign=True)])
        ours, _ = export(client, paths=[path])
        assert ours == theirs
        assert guix.import_stream(ours) == (path,)
    answer, _ = client.finish(send(client, tools, theirs))
    assert answer["result"] == {"paths": [path]}


def test_a_stream_must_end_with_its_body(connect: Callable[..., Any], tools: Any):
    """Neither earlier nor later, and nobody imports what is not signed."""
    client = connect()
    path = client.ask("add-text", name="item", text="x")["path"]
    stream, _ = export(client, paths=[path])
    for bad, words, reason in (
        (stream[:-8], "unexpected end-of-file", "invalid-export"),
        (stream + b"x", "1 bytes after the end of the export", "invalid-export"),
        (b"", "unexpected end-of-file", "invalid-export"),
        (export(client, paths=[path], sign=False)[0], "lacks a signature", "unsigned"),
        (stream.replace(b"sha256", b"sha512"), "corrupt signature", "bad-signature"),
    ):
        answer, _ = client.finish(send(client, tools, bad))
        assert (answer["type"], answer["reason"]) == ("error", reason)
        assert words in answer["message"]


def test_an_item_is_needed(connect: Callable[..., Any], daemon: Any):
    """One that is absent is an error by name."""
    error = connect().fail("export", paths=[f"{daemon.store}/{'0' * 32}-x"])
    assert error["reason"] == "not-valid"


def test_an_import_that_is_withdrawn_leaves_nothing(
    connect: Callable[..., Any], daemon: Any, tools: Any
):
    """Although half of the item was there."""
    client = connect()
    path = client.ask("add-text", name="item", text="x" * 100_000)["path"]
    stream, _ = export(client, paths=[path])
    request = client.begin("import")
    client.send(tools.chunk(request, stream[:50_000]), {"type": "cancel", "id": request})
    answer, _ = client.finish(request)
    assert answer["reason"] == "cancelled"
    (private,) = [name for name in os.listdir(daemon.store) if name.startswith(".incoming")]
    assert os.listdir(f"{daemon.store}/{private}") == []


def test_a_derivation_comes_with_its_outputs(connect: Callable[..., Any], daemon: Any, tools: Any):
    """What it says of them is read from it, so that a collector knows them."""
    client = connect()
    builder = client.add_script("builder", "#!/bin/sh\n")
    drv = client.ask(
        "add-derivation", name="d", builder=builder, sources=[builder], outputs=["out", "doc"]
    )
    stream, _ = export(client, paths=[drv["path"]], closure=True)
    collect(daemon, drv["path"], builder)
    answer, _ = client.finish(send(client, tools, stream))
    assert answer["result"] == {"paths": [builder, drv["path"]]}
    assert client.ask("derivation-outputs", path=drv["path"]) == {"outputs": drv["outputs"]}
    assert os.access(builder, os.X_OK)
