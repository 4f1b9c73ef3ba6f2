# SPDX-License-Identifier: GPL-3.0-or-later
"""Receiving by looking first, and taking out later."""

import os
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from storedaemon.sessions.receiver import MOST_LEFT, SMALL, Receiver
from storedaemon.sessions.sockets import ClientGoneError

Pair = tuple[socket.socket, socket.socket]


def pair() -> Pair:
    """Connect a daemon's socket, which does not block, and a client's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


@pytest.fixture
def ends() -> Iterator[Pair]:
    """Give a connected pair, closed afterwards."""
    ours, theirs = pair()
    with ours, theirs:
        yield ours, theirs


def unread(sock: socket.socket) -> bytes:
    """Give what is still in the socket, by an ordinary read."""
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_small_messages_are_given_once_each(ends: Pair):
    """What was looked at is not given again, although it is still in the socket."""
    ours, theirs = ends
    receiver = Receiver(ours)
    theirs.send(b"one")
    assert receiver.receive_now() == b"one"
    theirs.send(b"two")
    assert receiver.receive_now() == b"two"
    assert unread(ours) == b"onetwo"


def test_settling_leaves_the_next_reader_only_what_is_new(ends: Pair):
    """A body after a request is read by somebody else."""
    ours, theirs = ends
    receiver = Receiver(ours)
    theirs.send(b"request")
    receiver.receive_now()
    theirs.send(b"body")
    receiver.settle()
    assert unread(ours) == b"body"
    theirs.send(b"next")
    assert receiver.receive_now() == b"next"


def test_what_is_left_in_the_socket_is_bounded(ends: Pair):
    """A client's room for sending ahead is not used up."""
    ours, theirs = ends
    receiver = Receiver(ours)
    for _ in range(1000):
        theirs.send(b"x" * 100)
        assert receiver.receive_now() == b"x" * 100
    assert len(unread(ours)) < MOST_LEFT


def test_the_end_is_given_as_such(ends: Pair):
    """An orderly end is no bytes, also behind messages."""
    ours, theirs = ends
    receiver = Receiver(ours)
    theirs.send(b"last")
    theirs.close()
    assert receiver.receive_now() == b"last"
    assert receiver.receive_now() == b""
    assert receiver.receive_now() == b""


def test_a_connection_that_was_reset_is_lost(ends: Pair):
    """A client that left our answer unread ends the connection with an error."""
    ours, theirs = ends
    receiver = Receiver(ours)
    ours.send(b"answer")
    theirs.close()
    with pytest.raises(ClientGoneError):
        receiver.receive_now()


@settings(max_examples=60)
@given(st.lists(st.integers(1, 3 * SMALL), max_size=12), st.data())
def test_no_byte_is_lost_or_given_twice(sizes: list[int], data: st.DataObject):
    """Whatever the sizes, and whenever it is settled, the bytes are those that were sent."""
    ours, theirs = pair()
    with ours, theirs:
        receiver, sent, received = Receiver(ours), b"", b""
        for size in sizes:
            piece = os.urandom(size)
            theirs.send(piece)
            sent += piece
            for _ in range(data.draw(st.integers(0, 2))):
                received += receiver.receive_now() or b""
            if data.draw(st.booleans()):
                receiver.settle()
        while more := receiver.receive_now():
            received += more
        assert received == sent


async def test_waiting_ends_with_the_next_message(ends: Pair):
    """The event loop wakes the session once the client speaks."""
    ours, theirs = ends
    receiver = Receiver(ours)
    theirs.send(b"one")
    assert receiver.receive_now() == b"one"
    assert receiver.receive_now() is None
    found = []

    async def wait() -> None:
        found.append(await receiver.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert found == []
        # Else the socket would be readable all the time.
        assert unread(ours) == b""
        theirs.send(b"two")
    assert found == [b"two"]


async def test_what_comes_within_a_moment_is_only_looked_at(ends: Pair):
    """A client that asks again at once finds the session awake."""
    ours, theirs = ends
    receiver = Receiver(ours)
    theirs.send(b"one")
    assert receiver.receive_now() == b"one"

    async def send() -> None:
        theirs.send(b"two")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await receiver.receive() == b"two"
    assert unread(ours) == b"onetwo"


async def test_after_a_moment_in_vain_the_next_request_is_waited_for_asleep(ends: Pair):
    """What was looked at is taken out before, although the client asks at once this time."""
    ours, theirs = ends
    receiver = Receiver(ours)

    async def send() -> None:
        theirs.send(b"two")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.receive)
        await trio.testing.wait_all_tasks_blocked(0.01)
        theirs.send(b"one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await receiver.receive() == b"two"
    assert unread(ours) == b"two"


def test_other_sockets_are_read_plainly():
    """Over TCP everything is taken out at once."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as theirs,
        server.accept()[0] as ours,
    ):
        receiver = Receiver(ours)
        theirs.send(b"one")
        assert receiver.receive_now() == b"one"
        ours.setblocking(False)
        assert receiver.receive_now() is None
