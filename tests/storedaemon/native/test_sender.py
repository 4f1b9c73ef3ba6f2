# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames leave whole and in order, whoever is cancelled meanwhile."""

import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from storedaemon.sessions.native_sender import FrameSender
from storedaemon.sessions.sockets import ClientGoneError
from storedaemon.wire.native.frames import FrameReader, encode_frame


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets; the first does not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def frame(number: int, size: int) -> bytes:
    """Make a frame whose body tells its number."""
    return encode_frame(number.to_bytes(4, "big") + bytes(size))


async def receive(sock: socket.socket, count: int) -> list[int]:
    """Read so many frames; give their numbers."""
    reader, numbers = FrameReader(), []
    while len(numbers) < count:
        data = await trio.to_thread.run_sync(sock.recv, 100_000)
        numbers += [int.from_bytes(body[:4], "big") for body in reader.feed(data)]
    assert reader.pending == 0
    return numbers


async def test_a_cancelled_sender_leaves_no_half_frame(
    pair: tuple[socket.socket, socket.socket],
):
    """What has begun to leave is finished before the next frame."""
    ours, theirs = pair
    sender = FrameSender(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, frame(0, 1_000_000))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sender.send_now(frame(1, 10)) == frame(1, 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, frame(1, 10))
        assert await receive(theirs, 2) == [0, 1]


async def test_senders_take_turns(pair: tuple[socket.socket, socket.socket]):
    """Many tasks send at once, and the frames do not mix."""
    ours, theirs = pair
    sender = FrameSender(ours)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(sender.send, frame(number, 200_000))
        assert sorted(await receive(theirs, 20)) == list(range(20))


async def test_sending_at_once_says_what_is_left(pair: tuple[socket.socket, socket.socket]):
    """A frame that fits is sent without waiting; of one that does not, the rest follows."""
    ours, theirs = pair
    sender = FrameSender(ours)
    assert sender.send_now(frame(0, 10)) is None
    rest = sender.send_now(frame(1, 1_000_000))
    assert rest == b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, rest)
        assert await receive(theirs, 2) == [0, 1]


async def test_a_client_that_is_gone_is_an_error(pair: tuple[socket.socket, socket.socket]):
    """Nobody waits for a reader that is not there."""
    ours, theirs = pair
    theirs.close()
    with pytest.raises(ClientGoneError):
        await FrameSender(ours).send(frame(0, 10))
    with pytest.raises(ClientGoneError):
        FrameSender(ours).send_now(frame(0, 10))
