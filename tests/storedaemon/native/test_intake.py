# SPDX-License-Identifier: GPL-3.0-or-later
"""What native clients send counts in the memory of all requests, and waits for room there."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from storedaemon.client.client import connect
from storedaemon.request_memory import FREE, RequestMemory
from storedaemon.sessions import native_call
from storedaemon.sessions.native_intake import Intake
from storedaemon.sessions.native_methods import METHODS
from storedaemon.wire.native import messages
from storedaemon.wire.native.connection import ServerConnection
from storedaemon.wire.native.faults import RequestError
from storedaemon.wire.native.messages import encode_message
from tests.benchmarks.processes import forget_peak, peak, resident
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient
from tests.storedaemon.native.conftest import PlainClient, chunk

MIB = 1024 * 1024
SECONDS = 20


def test_frames_of_many_native_clients_wait_for_memory(start_daemon: Callable[..., RunningDaemon]):
    """Those that have begun are received as far as there is room, and all in the end."""
    daemon = start_daemon("--max-request-memory", "8")
    clients, missing = 48, f"{daemon.store}/{'0' * 32}-missing"
    paths = [missing] * (MIB // (len(missing) + 2))
    frame = encode_message(messages.Request(0, "valid-paths", {"paths": paths}))
    together, answers = threading.Event(), []

    def ask() -> None:
        with daemon.connect_native() as sock:
            client = PlainClient(sock)
            client.greet()
            sock.sendall(frame[:-1000])
            together.wait()
            sock.sendall(frame[-1000:])
            answers.append(client.receive())

    forget_peak(daemon.pid)
    before = resident(daemon.pid)
    asking = [threading.Thread(target=ask) for _ in range(clients)]
    for each in asking:
        each.start()
    with daemon.connect_native() as sock:
        watcher = PlainClient(sock)
        watcher.greet()
        end = time.monotonic() + SECONDS
        while (found := watcher.ask("stats")["requests"])["waiting"] < clients - 8:
            assert time.monotonic() < end, found
        assert 7 * len(frame) < found["used"] + 8 * FREE <= found["limit"] + 8 * FREE
        assert peak(daemon.pid) - before < clients * len(frame) // 2
        together.set()
        for each in asking:
            each.join()
        assert [answer["result"] for answer in answers] == [{"paths": []}] * clients
        found = watcher.ask("stats")["requests"]
    assert (found["used"], found["waiting"], found["dropped"]) == (0, 0, 0)


async def test_texts_of_many_native_clients_wait_for_memory(
    start_daemon: Callable[..., RunningDaemon],
):
    """Several at once on each connection."""
    daemon = start_daemon("--max-request-memory", "8")
    size, clients = 8 * MIB, 12

    async def add(number: int) -> None:
        async with connect(daemon.native_socket) as client, trio.open_nursery() as nursery:
            for letter in b"ab":
                nursery.start_soon(client.add_text, "text", bytes([letter, number]) * (size // 2))

    await add(200)
    forget_peak(daemon.pid)
    before = resident(daemon.pid)
    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(add, number)
    assert peak(daemon.pid) - before < clients * size
    async with connect(daemon.native_socket) as client:
        found = (await client.statistics()).groups["requests"]
    assert found["waited"] > 0
    assert (found["used"], found["waiting"], found["dropped"]) == (0, 0, 0)


async def test_a_connection_keeps_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch):
    """The text that goes beyond it fails, whichever requests have the rest."""
    monkeypatch.setattr(native_call, "MAX_HELD", 1000)
    intake = Intake(RequestMemory(MIB), bool)
    nothing: Any = None
    first, second = (
        native_call.Call(
            messages.Request(number, "add-text", {}),
            METHODS["add-text"],
            nothing,
            nothing,
            ServerConnection(),
            nothing,
            intake,
        )
        for number in range(2)
    )
    for call, size in ((first, 600), (second, 400)):
        call.feed(bytes(size), size)
        assert await call.next_of_body(keep=True) == [bytes(size)]
    second.feed(b"1", 1)
    with pytest.raises(RequestError, match="more than 1000 bytes") as caught:
        await second.next_of_body(keep=True)
    assert caught.value.reason == "too-large"
    second.let_go()
    first.end_body()
    assert await first.next_of_body(keep=True) == []
    first.let_go()
    assert intake.held == 0


def test_what_a_native_request_does_not_take_is_not_kept(daemon: RunningDaemon):
    """Chunks for a method without a body; they do not count as a long request either."""
    with daemon.connect_native() as sock:
        client = PlainClient(sock)
        client.greet()
        begun = client.begin("subscribe")
        client.send(chunk(begun, bytes(500_000)), chunk(begun, bytes(500_000)))
        assert client.ask("stats")["requests"]["used"] == 0
        client.send(chunk(begun, bytes(500_000)))
        fault = client.receive()
        assert fault is not None
        assert fault["reason"] == "window-exceeded"


@pytest.mark.slow
def test_a_native_client_that_stops_in_a_text_loses_that_request(
    start_daemon: Callable[..., RunningDaemon],
):
    """Once others wait; in the middle of a frame, it loses the connection. Both are told."""
    daemon = start_daemon("--max-request-memory", "2")
    with (
        daemon.connect_native() as first,
        daemon.connect_native() as second,
        GuixClient(daemon.guix_socket) as other,
    ):
        in_body, in_frame = PlainClient(first), PlainClient(second)
        for client in (in_body, in_frame):
            client.greet()
        begun = in_body.begin("add-text", name="half")
        in_body.send(chunk(begun, bytes(500_000)), chunk(begun, bytes(500_000)))
        in_frame.sock.sendall((1_000_000).to_bytes(4, "big") + bytes(100_000))
        other.add_text("whole", bytes(4 * MIB))
        assert in_body.finish(begun)[0]["reason"] == "silent"
        assert in_body.ask("ping") == {}
        fault = in_frame.receive()
        assert fault is not None
        assert (fault["type"], fault["reason"]) == ("fault", "silent")
        assert in_body.ask("stats")["requests"]["dropped"] == 2
