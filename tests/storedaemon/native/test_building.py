# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds over the native socket of a real daemon, in real containers."""

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def describe(client: Any, name: str, script: str, **more: Any) -> dict[str, Any]:
    """Add a derivation whose builder is a script."""
    builder = client.add_script(f"{name}-builder", f"#!/bin/sh\n{script}\n")
    sources = [builder, *more.pop("sources", [])]
    env = {"PATH": "/usr/bin:/bin", **more.pop("env", {})}
    return client.ask(
        "add-derivation", name=name, builder=builder, sources=sources, env=env, **more
    )


def test_a_described_derivation_is_built(builder_client: Any):
    """The daemon computes paths, builds in order, tells what happens, and keeps the log."""
    client = builder_client
    lib = describe(
        client, "lib", "echo made lib; echo L > $out; echo D > $doc", outputs=["out", "doc"]
    )
    app = describe(
        client,
        "app",
        'read x < $lib; echo "$x $1" > $out',
        args=["arg"],
        env={"lib": lib["outputs"]["out"]},
        inputs={lib["path"]: ["out"]},
    )
    number = client.begin("build", targets=[app["path"]])
    answer, events = client.finish(number)
    assert answer["result"] == {"outputs": {app["path"]: app["outputs"]}}
    assert Path(app["outputs"]["out"]).read_text() == "L arg\n"
    names = [(e["event"], e["drv"]) for e in events if e["event"] in {"started", "succeeded"}]
    assert names == [
        ("started", lib["path"]),
        ("succeeded", lib["path"]),
        ("started", app["path"]),
        ("succeeded", app["path"]),
    ]
    output = b"".join(e["data"] for e in events if e["event"] == "log" and e["drv"] == lib["path"])
    assert output == b"made lib\n"

    number = client.begin("log", path=lib["path"])
    answer, chunks = client.finish(number)
    assert b"".join(message["data"] for message in chunks) == output
    assert answer["result"] == {"size": len(output)}
    assert client.ask("derivation-outputs", path=lib["path"]) == {"outputs": lib["outputs"]}
    assert client.ask("derivers", path=app["outputs"]["out"]) == {"paths": [app["path"]]}

    answer, events = client.finish(client.begin("build", targets=[app["path"]]))
    assert answer["type"] == "reply"
    assert events == []


def test_failures_tell_kind_and_status(builder_client: Any):
    """A failure names the derivation, its kind and the number that Guix clients know."""
    client = builder_client
    bad = describe(client, "bad", "echo oops; exit 3")
    user = describe(client, "user", ":", inputs={bad["path"]: ["out"]})
    answer, events = client.finish(client.begin("build", targets=[user["path"]]))
    assert (answer["type"], answer["reason"]) == ("error", "permanent-failure")
    assert answer["details"]["status"] == 100
    failed = {e["drv"]: e["kind"] for e in events if e["event"] == "failed"}
    assert failed == {bad["path"]: "permanent-failure", user["path"]: "dependency-failed"}

    slow = describe(client, "slow", "while :; do echo x; done >/dev/null")
    answer, _ = client.finish(client.begin("build", targets=[slow["path"]], timeout=1))
    assert (answer["reason"], answer["details"]["status"]) == ("timed-out", 101)

    fixed = {"algorithm": "sha256", "hash": "0" * 64}
    wrong = describe(client, "wrong", "echo x > $out", fixed=fixed)
    answer, events = client.finish(client.begin("build", targets=[wrong["path"]]))
    assert answer["reason"] == "output-rejected"
    (mismatch,) = (e for e in events if e["event"] == "hash-mismatch")
    assert mismatch["path"] == wrong["outputs"]["out"]


def wait_for(client: Any, number: int, event: str) -> None:
    """Receive up to an event of a request."""
    while True:
        message = client.receive()
        if message["id"] == number and message.get("event") == event:
            return


def test_a_running_build_is_seen_and_ended(builder_client: Any):
    """Other requests are served meanwhile: what runs, and its end."""
    client = builder_client
    slow = describe(client, "slow", "echo on; while :; do read x; done </dev/zero")
    number = client.begin("build", targets=[slow["path"]])
    wait_for(client, number, "log")
    (goal,) = client.ask("ps")["goals"]
    assert (goal["drv"], goal["state"]) == (slow["path"], "building")
    assert goal["pid"] > 0
    assert [wanting["uid"] for wanting in goal["clients"]] == [os.getuid()]
    assert client.ask("status")["building"] == 1
    assert client.ask("cancel-build", path=slow["path"]) == {"cancelled": True}
    answer, _ = client.finish(number)
    assert answer["reason"] == "cancelled"
    assert client.ask("cancel-build", path=slow["path"]) == {"cancelled": False}
    assert not Path(slow["outputs"]["out"]).exists()


def test_withdrawing_a_request_ends_its_build(builder_client: Any):
    """What nobody wants any more is not built on."""
    client = builder_client
    slow = describe(client, "slow", "echo on; while :; do read x; done </dev/zero")
    number = client.begin("build", targets=[slow["path"]])
    wait_for(client, number, "log")
    client.send({"type": "cancel", "id": number})
    answer, _ = client.finish(number)
    assert answer["reason"] == "cancelled"
    while client.ask("status")["goals"]:
        pass


@pytest.mark.parametrize("window", [0, 131_072])
def test_a_slow_reader_holds_up_its_builder_and_nobody_else(
    building_daemon: Any, builder_client: Any, window: int
):
    """A client that does not read slows its own build; with a window its other requests go on."""
    client = builder_client
    chatty = describe(client, "chatty", "head -c 8000000 /dev/zero | tr '\\0' x; echo > $out")
    slow = type(client)(building_daemon.connect_native())
    slow.greet(window=window)
    number = slow.begin("build", targets=[chatty["path"]])
    wait_for(slow, number, "log")
    if window:
        assert slow.finish(slow.begin("ping"))[0]["type"] == "reply"
    assert client.ask("ping") == {}
    size = 0
    while (message := slow.receive())["type"] != "reply":
        if message["type"] == "event":
            size += len(message.get("data", b""))
            if window:
                slow.send({"type": "credit", "id": number, "bytes": length_of(message)})
    assert size > 7_000_000
    slow.sock.close()


def length_of(message: dict[str, Any]) -> int:
    """Give the length of a message's frame, which its window counts."""
    import cbor2  # noqa: PLC0415

    return len(cbor2.dumps(message))
