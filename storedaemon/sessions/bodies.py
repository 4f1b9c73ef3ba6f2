# SPDX-License-Identifier: GPL-3.0-or-later
"""Receiving what has the size of a file: the session lends its socket to a thread.

A small body stays on the event loop. A larger one goes to a worker thread that
reads and digests at full speed, and gives the socket back when the client falls
silent or after a turn: so a slow client occupies no thread, many fast ones take
turns, and a cancelled session never waits longer than a turn. Entry point:
`receive_body`.
"""

import itertools
import select
import socket
import time
from collections.abc import Iterator
from typing import Protocol

import trio

from store.hashing import BLOCKS, Block
from storedaemon.sessions.sockets import ClientGoneError, receive

SMALL = 64 * 1024
"""Bytes of a body that are digested on the event loop."""

BLOCK = 256 * 1024
"""Bytes a thread reads at once; larger ones leave the processor's cache."""

TURN_SECONDS = 0.2
"""How long a thread serves one client before others get their turn."""

SILENCE_MS = 20
"""How long a thread waits for a client before it gives the socket back."""

THREADS = 4
"""How many bodies are digested at once."""

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("body_limiter")


class Consumer(Protocol):
    """What digests a body, and finds its end."""

    def feed(self, data: memoryview) -> int:
        """Digest bytes, on any thread; give how many belong to the body."""

    @property
    def finished(self) -> bool:
        """Whether the body has ended."""


async def receive_body(sock: socket.socket, received: bytes, consumer: Consumer) -> bytes:
    """Feed a body to its consumer; give what was received beyond its end.

    Args:
        sock: The client's socket.
        received: What was received of the body already.
        consumer: Digests the body. What its `feed` raises comes out of here.

    Raises:
        ClientGoneError: The client closed its end within the body.
    """
    size = len(received)
    rest = _feed(consumer, memoryview(received))
    while not consumer.finished:
        if size < SMALL:
            data = await receive(sock)
            if not data:
                raise _cut_short()
            size += len(data)
            rest = _feed(consumer, memoryview(data))
        else:
            await trio.lowlevel.wait_readable(sock)
            rest = await trio.to_thread.run_sync(_turn, sock, consumer, limiter=_threads())
    return rest


def _threads() -> trio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
        return limiter


def _turn(sock: socket.socket, consumer: Consumer) -> bytes:
    """Read and digest until the body ends, the client falls silent or the turn is over."""
    blocks = _blocks()
    block = next(blocks)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    end = time.monotonic() + TURN_SECONDS
    while time.monotonic() < end:
        try:
            count = sock.recv_into(block)
        except BlockingIOError:
            if not poll.poll(SILENCE_MS):
                break
            continue
        except OSError as error:
            raise ClientGoneError(str(error)) from error
        if not count:
            raise _cut_short()
        rest = _feed(consumer, memoryview(block)[:count])
        if consumer.finished:
            return rest
        block = next(blocks)
    return b""


def _blocks() -> Iterator[Block]:
    """Yield blocks to receive into, in turn; few are made for a body that is small."""
    made = []
    for _ in range(BLOCKS):
        made.append(Block(BLOCK))
        yield made[-1]
    yield from itertools.cycle(made)


def _feed(consumer: Consumer, data: memoryview) -> bytes:
    return bytes(data[consumer.feed(data) :])


def _cut_short() -> ClientGoneError:
    return ClientGoneError("the connection ended within an archive")
