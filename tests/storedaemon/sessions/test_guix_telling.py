# SPDX-License-Identifier: GPL-3.0-or-later
"""Showing events to a Guix client, whether or not it reads."""

import socket
from collections.abc import Iterator

import pytest
import trio

from builder.events import BuildLog, Level, Message
from store.paths import StorePath
from storedaemon.sessions.guix_output import Audience
from storedaemon.sessions.guix_telling import Teller
from storedaemon.sessions.sockets import ClientGoneError

Pair = tuple[socket.socket, socket.socket]
LARGE = BuildLog(StorePath(f"/gnu/store/{'a' * 32}-x.drv"), 1, b"output of a builder\n" * 2**18)


def frame(text: bytes) -> bytes:
    """Leave a text as it is."""
    return text


@pytest.fixture
def ends() -> Iterator[Pair]:
    """Give two connected sockets, the first not blocking."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_what_the_system_takes_is_shown_at_once(ends: Pair):
    """Nothing is left for later."""
    teller = Teller(ends[0], frame)
    assert teller.at_once(Message("a"))
    assert ends[1].recv(100) == b"a\n"


async def test_what_a_client_does_not_want_needs_no_telling(ends: Pair):
    """It counts as told."""
    teller = Teller(ends[0], frame)
    teller.audience = Audience(verbosity=0)
    assert teller.at_once(Message("a", Level.CHATTY))
    ends[0].close()
    assert ends[1].recv(100) == b""


async def test_an_event_that_does_not_fit_is_shown_to_its_end_and_once(ends: Pair):
    """What the system took of it is not sent again."""
    ours, theirs = ends
    teller, received = Teller(ours, frame), bytearray()
    assert not teller.at_once(LARGE)

    def read() -> None:
        while data := theirs.recv(1 << 20):
            received.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, read)
        await teller(LARGE)
        await teller(Message("end"))
        ours.shutdown(socket.SHUT_WR)
    assert received == LARGE.data + b"end\n"


async def test_a_client_that_is_gone_is_the_next_calls_error(ends: Pair):
    """Whoever tells at once learns only that it was not told."""
    teller = Teller(ends[0], frame)
    ends[1].close()
    assert not teller.at_once(Message("a"))
    with pytest.raises(ClientGoneError):
        await teller(Message("a"))
