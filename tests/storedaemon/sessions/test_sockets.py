# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading, writing and losing a client's socket."""

import os
import socket
from collections.abc import Iterator

import pytest
import trio

from storedaemon.sessions.sockets import (
    ClientGoneError,
    linger,
    receive,
    send,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Pair]:
    """Give two connected sockets, both non-blocking."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_more_than_the_socket_holds_is_sent_as_it_is_read(ends: Pair):
    """Sending waits for the reader, and loses nothing."""
    ours, theirs = ends
    data = os.urandom(3_000_000)
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, ours, data)
        while len(received) < len(data):
            received += await receive(theirs)
    assert received == data


async def test_a_client_that_is_gone_is_noticed_when_written_to(ends: Pair):
    """A broken pipe has a name of its own, which no other error shares."""
    ours, theirs = ends
    theirs.close()
    with pytest.raises(ClientGoneError):
        await send(ours, b"x")


async def test_the_end_is_no_bytes(ends: Pair):
    """An orderly end is not an error."""
    ours, theirs = ends
    theirs.shutdown(socket.SHUT_WR)
    assert await receive(ours) == b""


async def test_a_client_in_full_flow_still_reads_the_last_answer(ends: Pair):
    """The connection is not reset while the client has something to send."""
    ours, theirs = ends
    async with trio.open_nursery() as nursery:

        async def client() -> bytes:
            await send(theirs, bytes(1_000_000))
            theirs.shutdown(socket.SHUT_WR)
            return await receive(theirs)

        async def check() -> None:
            assert await client() == b"the reason"

        nursery.start_soon(check)
        await send(ours, b"the reason")
        await linger(ours, 5)
