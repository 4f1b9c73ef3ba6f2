# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a connection: hellos, ids, windows, and what is dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storedaemon.wire.native import messages as m
from storedaemon.wire.native.connection import (
    DAEMON_WINDOW,
    FEATURES,
    MAX_REQUESTS,
    ClientConnection,
    ServerConnection,
    limits,
)
from storedaemon.wire.native.faults import FaultError
from storedaemon.wire.native.windows import SMALLEST_WINDOW, Incoming, Outgoing

HELLO = m.ClientHello((1, 1), frozenset(), SMALLEST_WINDOW, "test")
DAEMON = m.ServerHello((1, 1), FEATURES, limits(), "storedaemon", "/gnu/store", "x", trusted=False)


def server(*received: m.Message) -> ServerConnection:
    """Make a daemon's side that has seen a hello and some messages."""
    connection = ServerConnection()
    receive(connection, HELLO, *received)
    return connection


def receive(connection: ServerConnection | ClientConnection, *sent: m.Message) -> list[m.Message]:
    """Let a side receive messages; give those that it passes on."""
    data = b"".join(map(m.encode_message, sent))
    return [message for message, _ in connection.receive(data)]


def test_a_request_is_in_flight_until_it_is_finished():
    """The daemon knows which requests it owes an answer."""
    connection = server(m.Request(0, "ping", {}), m.Request(7, "ping", {}))
    assert connection.in_flight == 2
    connection.finish(0)
    assert connection.in_flight == 1


def test_messages_for_ended_requests_are_dropped():
    """A client cannot know yet that a request has ended; what it still says is harmless."""
    connection = server(m.Request(0, "add", {}))
    connection.finish(0)
    late = [m.Chunk(0, b"x"), m.End(0), m.Credit(0, 5), m.Cancel(0), m.Chunk(99, b"y")]
    assert receive(connection, *late) == []


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([m.Request(0, "ping", {})], "malformed-message"),
        ([HELLO, HELLO], "malformed-message"),
        ([m.ClientHello((2, 3))], "unsupported-version"),
        ([m.ClientHello((1, 1), window=1)], "malformed-message"),
        ([HELLO, m.Request(5, "ping", {}), m.Request(5, "ping", {})], "request-id"),
        ([HELLO, m.Request(5, "ping", {}), m.Request(4, "ping", {})], "request-id"),
        ([HELLO, m.Request(0, "x", {}), m.Credit(0, 1)], "window-exceeded"),
        ([HELLO, *(m.Request(i, "x", {}) for i in range(MAX_REQUESTS + 1))], "too-many-requests"),
    ],
)
def test_faults_of_clients(messages: list[m.Message], reason: str):
    """Each way to break the protocol has its reason."""
    with pytest.raises(FaultError) as caught:
        receive(ServerConnection(), *messages)
    assert caught.value.reason == reason


def test_a_newer_client_is_served_in_the_older_version():
    """A client that speaks more versions than the daemon is welcome."""
    assert receive(ServerConnection(), m.ClientHello((1, 4))) == [m.ClientHello((1, 4))]


def test_a_body_beyond_the_window_is_a_fault():
    """A client that sends ahead of its credit is cut off before the daemon stores it."""
    connection = server(m.Request(0, "add", {}))
    half = m.Chunk(0, bytes(DAEMON_WINDOW // 2 - 64))
    receive(connection, half, half)
    with pytest.raises(FaultError, match="ahead of credit"):
        receive(connection, half)


def test_credit_makes_room_for_more_of_a_body():
    """What was dealt with is given back, and may be sent again."""
    connection = server(m.Request(0, "add", {}))
    chunk = m.Chunk(0, bytes(DAEMON_WINDOW // 4))
    length = len(m.encode_message(chunk)) - 4
    for _ in range(40):
        receive(connection, chunk)
        connection.consumed(0, length)


def test_the_end_of_input_within_a_frame_is_a_fault():
    """A connection that is cut is told apart from one that was closed."""
    connection = server()
    connection.end_of_input()
    list(connection.receive(b"\0\0"))
    with pytest.raises(FaultError) as caught:
        connection.end_of_input()
    assert caught.value.reason == "truncated"


def test_a_client_drops_what_comes_for_requests_it_gave_up():
    """After a cancellation events may still be under way."""
    connection = ClientConnection()
    receive(connection, DAEMON)
    connection.begin(0)
    connection.begin(1)
    connection.finish(0)
    events = [m.Event(0, "x", {}), m.Reply(0, {}), m.Event(1, "x", {}), m.Reply(1, {})]
    assert receive(connection, *events) == events[2:]


def test_a_client_refuses_a_daemon_of_another_version():
    """A version that this side does not speak is an error, and not a guess."""
    newer = m.ServerHello((7, 9), FEATURES, limits(), "storedaemon", "/s", "x", trusted=False)
    with pytest.raises(FaultError, match="versions 7 to 9"):
        receive(ClientConnection(), newer)


@given(st.lists(st.integers(1, SMALLEST_WINDOW // 2)))
def test_windows_never_stall_a_sender(lengths: list[int]):
    """Frames of at most half a window always find room once those before were dealt with."""
    outgoing, incoming = Outgoing(SMALLEST_WINDOW), Incoming(SMALLEST_WINDOW)
    for length in lengths:
        assert outgoing.fits(length)
        outgoing.sent(length)
        incoming.received(length)
        if credit := incoming.consumed(length):
            outgoing.credit(credit)


def test_without_a_window_everything_fits():
    """A client that announces no window is slowed down by its socket alone."""
    outgoing = Outgoing(0)
    outgoing.sent(10**9)
    assert outgoing.fits(10**9)
    outgoing.credit(5)
