# SPDX-License-Identifier: GPL-3.0-or-later
"""A real daemon's native socket, spoken to by a client written from the document alone."""

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2

MISSING = "a" * 32 + "-missing"


def test_the_hellos_cross(daemon: Any, connect: Callable[..., Any]):
    """The daemon says who it is without being asked, and answers a request sent at once."""
    client = connect(greet=False)
    hello = client.receive()
    assert hello["versions"] == [1, 1]
    assert hello["store"] == daemon.store
    assert hello["limits"]["frame"] == 1 << 20
    assert "build" in hello["features"]
    client.send(
        {"type": "hello", "versions": [1, 9], "features": ["novel"], "x": 1},
        {"type": "request", "id": 0, "method": "ping"},
    )
    assert client.receive() == {"type": "reply", "id": 0, "result": {}}


def test_items_are_added_and_described(daemon: Any, connect: Callable[..., Any], tools: Any):
    """Text, a file and an archive get the paths that the formats prescribe."""
    client = connect()
    text = client.ask("add-text", name="t", text="hello", references=[])["path"]
    digest = hashlib.sha256(b"hello").digest()
    assert text == tools.store_path(daemon.store, "text", digest, "t")
    assert Path(text).read_text() == "hello"

    number = client.begin("add", name="f", method="flat", algorithm="sha1", size=11)
    client.send(tools.chunk(number, b"hello "), tools.chunk(number, b"world"), tools.end(number))
    flat = client.finish(number)[0]["result"]["path"]
    assert Path(flat).read_bytes() == b"hello world"

    nar = tools.executable_nar(b"#!/bin/sh\n")
    script = client.add_script("s", "#!/bin/sh\n")
    assert script == tools.store_path(daemon.store, "source", hashlib.sha256(nar).digest(), "s")
    assert Path(script).stat().st_mode & 0o777 == 0o555

    info = client.ask("path-info", path=script)
    assert info["nar-hash"] == f"sha256:{hashlib.sha256(nar).hexdigest()}"
    assert (info["nar-size"], info["references"], info["deriver"]) == (len(nar), [], None)

    user = client.ask("add-text", name="u", text=b"x", references=[text, script])["path"]
    assert client.ask("references", path=user)["paths"] == sorted([text, script])
    assert client.ask("referrers", path=text)["paths"] == [user]
    assert client.ask("closure", paths=[user])["paths"] == sorted([text, script, user])
    missing = f"{daemon.store}/{MISSING}"
    assert client.ask("valid-paths", paths=[missing, user])["paths"] == [user]
    assert client.ask("is-valid", path=missing) == {"valid": False}
    part = user.removeprefix(f"{daemon.store}/")[:32]
    assert client.ask("path-from-hash-part", hash=part) == {"path": user}
    assert client.ask("path-from-hash-part", hash="0" * 32) == {"path": None}
    assert client.ask("derivers", path=user) == {"paths": []}


def test_a_long_text_comes_as_a_body(connect: Callable[..., Any], tools: Any):
    """A text longer than a frame, and longer than the window, arrives with the daemon's credit."""
    client = connect()
    number = client.begin("add-text", name="long", references=[])
    content, credit = bytes(range(256)) * 8192, 1 << 20
    for start in range(0, len(content), 1 << 18):
        message = tools.chunk(number, content[start : start + (1 << 18)])
        size = len(cbor2.dumps(message))
        while credit < size:
            given = client.receive()
            assert given["type"] == "credit"
            credit += given["bytes"]
        credit -= size
        client.send(message)
    client.send(tools.end(number))
    answer, _ = client.finish(number)
    assert Path(answer["result"]["path"]).read_bytes() == content


def test_errors_end_only_their_request(daemon: Any, connect: Callable[..., Any], tools: Any):
    """Whatever is wrong with a request, the next one is served."""
    client = connect()
    missing = f"{daemon.store}/{MISSING}"
    for method, params, reason in [
        ("nonsense", {}, "unknown-method"),
        ("is-valid", {}, "invalid-params"),
        ("is-valid", {"path": 3}, "invalid-params"),
        ("is-valid", {"path": "x\0"}, "invalid-params"),
        ("is-valid", {"path": "/etc/passwd"}, "invalid-path"),
        ("path-info", {"path": missing}, "not-valid"),
        ("path-from-hash-part", {"hash": "x"}, "invalid-path"),
        ("add-text", {"name": "../x", "text": "", "references": []}, "invalid-path"),
        ("add-text", {"name": "x", "text": "", "references": [missing]}, "not-valid"),
        ("add-text", {"name": "x.drv", "text": "", "references": []}, "invalid-derivation"),
        ("add", {"name": "x", "algorithm": "md4"}, "invalid-hash"),
        ("add", {"name": "x", "method": "sideways"}, "invalid-params"),
        ("log", {"path": f"{missing}.drv"}, "no-log"),
        ("derivation-outputs", {"path": missing}, "not-valid"),
        ("build", {"targets": "x"}, "invalid-params"),
        ("build", {"targets": [], "cores": -1}, "invalid-params"),
        ("build", {"targets": [], "mode": "fast"}, "invalid-params"),
        ("add-derivation", {"name": "x", "builder": "b", "env": {"a": 1}}, "invalid-params"),
        ("add-derivation", {"name": "x", "builder": "b", "env": {"": ""}}, "invalid-params"),
        ("add-derivation", {"name": "x", "builder": "b", "outputs": []}, "invalid-derivation"),
        ("add-derivation", {"name": "x", "builder": "b", "sources": ["/x"]}, "invalid-path"),
        ("add-derivation", {"name": "x", "builder": "b", "sources": [missing]}, "not-valid"),
    ]:
        error = client.fail(method, **params)
        assert (method, error["reason"]) == (method, reason), error
        assert error["message"]

    number = client.begin("add", name="x")
    client.send(tools.chunk(number, b"this is no archive, whatever it says"))
    assert client.finish(number)[0]["reason"] == "invalid-nar"
    # What was on its way when the request failed is ignored.
    client.send(tools.chunk(number, b"x"), tools.end(number), {"type": "cancel", "id": number})

    number = client.begin("add", name="x")
    client.send(tools.chunk(number, tools.executable_nar(b"x") + b"more"), tools.end(number))
    assert client.finish(number)[0]["reason"] == "invalid-nar"
    number = client.begin("add", name="x")
    client.send(tools.chunk(number, tools.executable_nar(b"x")[:-8]), tools.end(number))
    assert client.finish(number)[0]["reason"] == "invalid-nar"
    assert client.ask("ping") == {}
    assert [p for p in Path(daemon.store).iterdir() if not p.name.startswith(".")] == []


def test_faults_are_told_before_the_connection_ends(connect: Callable[..., Any]):
    """Who breaks the protocol is told how, and others are not concerned."""
    bystander = connect()
    for data, reason in [
        (b"cxin\0\0\0\0", "frame-size"),
        (b"\0\0\0\0", "frame-size"),
        (b"\0\0\0\1\xff", "malformed-cbor"),
        (b"\0\0\0\1\x80", "malformed-message"),
        (b"\0\0\0\1", "truncated"),
    ]:
        client = connect()
        client.sock.sendall(data)
        if reason == "truncated":
            client.sock.shutdown(socket.SHUT_WR)
        fault = client.receive()
        assert (fault["type"], fault["reason"]) == ("fault", reason)
        assert client.receive() is None
    assert bystander.ask("ping") == {}


def test_more_faults(connect: Callable[..., Any]):
    """Ids that do not grow, too many requests, windows exceeded: each ends its connection."""
    request = {"type": "request", "id": 3, "method": "ping"}
    many = [
        {"type": "request", "id": n, "method": "add", "params": {"name": "x"}} for n in range(40)
    ]
    unearned = [many[0], {"type": "credit", "id": 0, "bytes": 1}]
    for messages, reason in [
        ([request, request], "request-id"),
        (many, "too-many-requests"),
        (unearned, "window-exceeded"),
        ([{"type": "hello", "versions": [1, 1]}], "malformed-message"),
    ]:
        client = connect(window=1 << 20)
        client.send(*messages)
        while (message := client.receive())["type"] != "fault":
            assert message["type"] == "reply"
        assert message["reason"] == reason
    client = connect(greet=False)
    client.send({"type": "hello", "versions": [2, 3]})
    client.receive()
    assert client.receive()["reason"] == "unsupported-version"


def test_many_requests_share_a_connection(connect: Callable[..., Any], tools: Any):
    """A body that has not ended holds nobody up, and replies carry their ids."""
    client = connect()
    pending = client.begin("add", name="pending", method="flat")
    client.send(tools.chunk(pending, b"half"))
    numbers = [client.begin("ping") for _ in range(20)]
    replies = [client.receive()["id"] for _ in numbers]
    assert replies == numbers
    client.send({"type": "cancel", "id": pending})
    answer, _ = client.finish(pending)
    assert answer["reason"] == "cancelled"


def test_a_client_that_never_reads_is_not_stored_for(daemon: Any, connect: Callable[..., Any]):
    """Unread answers fill the socket, then the client is cut off; the daemon stays small."""
    client = connect()
    before = memory_of(daemon.pid)
    text = client.ask("add-text", name="x", text=b"", references=[])["path"]
    client.sock.settimeout(5)
    number = client.next_id
    try:
        while True:
            frames = [
                {
                    "type": "request",
                    "id": number + n,
                    "method": "path-info",
                    "params": {"path": text},
                }
                for n in range(100)
            ]
            number += 100
            client.send(*frames)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass
    assert memory_of(daemon.pid) - before < 16 << 20
    assert connect().ask("ping") == {}


def memory_of(pid: int) -> int:
    """Give the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def test_hanging_up_in_any_state_leaves_nothing(
    daemon: Any, connect: Callable[..., Any], tools: Any
):
    """Connections may end before, between and within messages."""
    clients = [connect(greet=False), connect(), connect(), connect()]
    clients[1].send({"type": "request", "id": 0, "method": "add", "params": {"name": "x"}})
    clients[2].send({"type": "request", "id": 0, "method": "add", "params": {"name": "x"}})
    clients[2].send(tools.chunk(0, tools.executable_nar(bytes(1000))[:500]))
    clients[3].sock.sendall(b"\0\0\1")
    for client in clients:
        client.sock.close()
    survivor = connect()
    while survivor.ask("status")["sessions"] > 1:
        pass
    left = [path.name for path in Path(daemon.store).iterdir() if not path.name.startswith(".")]
    assert left == []
    assert all(not any(path.iterdir()) for path in Path(daemon.store).glob(".incoming-*"))
