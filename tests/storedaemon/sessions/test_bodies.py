# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies received by lending the socket to a thread."""

import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from storedaemon.sessions.bodies import SMALL, THREADS, TURN_SECONDS, receive_body
from storedaemon.sessions.sockets import ClientGoneError, send


class Counter:
    """A body of a known length, of which the digest and the threads are kept."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.digest = hashlib.sha256()
        self.threads: set[int] = set()

    def feed(self, data: memoryview) -> int:
        """Digest what belongs to the body."""
        used = min(self.left, len(data))
        self.digest.update(data[:used])
        self.left -= used
        self.threads.add(threading.get_ident())
        return used

    @property
    def finished(self) -> bool:
        """Whether all came."""
        return not self.left


Pair = tuple[socket.socket, socket.socket]


def pair() -> Pair:
    """Connect a daemon's socket and a client's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


@pytest.fixture
def ends() -> Iterator[Pair]:
    """Give a connected pair, closed afterwards."""
    ours, theirs = pair()
    with ours, theirs:
        yield ours, theirs


async def test_a_small_body_stays_on_the_loop(ends: Pair):
    """What was received already is digested first, and the rest is given back."""
    ours, theirs = ends
    consumer = Counter(10)
    await send(theirs, b"56789next")
    assert await receive_body(ours, b"01234", consumer) == b"next"
    assert consumer.digest.digest() == hashlib.sha256(b"0123456789").digest()
    assert consumer.threads == {threading.get_ident()}


async def test_a_body_that_is_there_already_needs_no_socket(ends: Pair):
    """Nothing is read when the body ended in the first bytes."""
    assert await receive_body(ends[0], b"abcdef", Counter(4)) == b"ef"


async def test_a_large_body_is_digested_in_a_thread(ends: Pair):
    """All bytes arrive in order, off the loop, and the bytes behind come back."""
    ours, theirs = ends
    body = bytes(range(256)) * 40_000
    consumer = Counter(len(body))
    rests = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, theirs, body + b"rest")
        rests.append(await receive_body(ours, b"", consumer))
    rest = rests[0] + (ours.recv(10) if len(rests[0]) < 4 else b"")
    assert rest == b"rest"
    assert consumer.digest.digest() == hashlib.sha256(body).digest()
    assert len(consumer.threads) >= 2


async def test_clients_that_fall_silent_hold_no_thread():
    """More stalled clients than threads, and another's body still goes through."""
    pairs = [pair() for _ in range(THREADS + 3)]
    size = 4 * SMALL
    async with trio.open_nursery() as nursery:
        for ours, theirs in pairs[1:]:
            await send(theirs, bytes(size // 2))
            nursery.start_soon(receive_body, ours, b"", Counter(size))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(send, pairs[0][1], bytes(size))
        with trio.fail_after(20):
            assert await receive_body(pairs[0][0], b"", Counter(size)) == b""
        nursery.cancel_scope.cancel()
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.parametrize("size", [100, 4 * SMALL])
async def test_a_client_that_leaves_within_a_body_is_noticed(ends: Pair, size: int):
    """The end of the connection is an error, on the loop and in a thread."""
    ours, theirs = ends
    async with trio.open_nursery() as nursery:

        async def send_half() -> None:
            await send(theirs, bytes(size))
            theirs.close()

        nursery.start_soon(send_half)
        result = None
        try:
            await receive_body(ours, b"", Counter(2 * size))
        except ClientGoneError as error:
            result = error
    assert str(result) == "the connection ended within an archive"


async def test_a_session_is_cancelled_within_a_turn(ends: Pair):
    """A body that never ends does not keep the daemon from stopping."""
    ours, theirs = ends

    async def send_for_ever() -> None:
        while True:
            await send(theirs, bytes(SMALL))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_for_ever)
        with trio.move_on_after(0.05) as scope:
            await receive_body(ours, b"", Counter(2**60))
        late = trio.current_time() - scope.deadline
        nursery.cancel_scope.cancel()
    assert scope.cancelled_caught
    assert late < TURN_SECONDS * 10


async def test_what_the_consumer_refuses_comes_out(ends: Pair):
    """A fault in the body is raised on the loop, from a thread too."""

    class Refusing(Counter):
        def feed(self, data: memoryview) -> int:
            if threading.current_thread() is not threading.main_thread():
                raise ValueError("refused")
            return super().feed(data)

    ours, theirs = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, theirs, bytes(3 * SMALL))
        with pytest.raises(ValueError, match="refused"):
            await receive_body(ours, b"", Refusing(3 * SMALL))
        nursery.cancel_scope.cancel()
