# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending what is done for a client that hangs up."""

import os
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from storedaemon.sessions.hangups import ends_at_hang_up

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Pair]:
    """Give two connected sockets, both non-blocking."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("sent_ahead", [b"", b"the next request"])
async def test_a_hang_up_ends_the_work_and_nothing_else_does(ends: Pair, sent_ahead: bytes):
    """Bytes sent ahead neither look like a hang-up nor hide one; nothing is read."""
    ours, theirs = ends
    ended = trio.Event()

    async def work() -> None:
        with ends_at_hang_up(ours) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        ended.set()

    if sent_ahead:
        theirs.send(sent_ahead)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not ended.is_set()
        theirs.close()
        with trio.fail_after(5):
            await ended.wait()
    assert ours.recv(100) == sent_ahead


async def test_a_client_that_is_gone_already_is_noticed(ends: Pair):
    """Work that begins after the hang-up ends as well."""
    ours, theirs = ends
    theirs.close()
    with trio.fail_after(5), ends_at_hang_up(ours):
        await trio.sleep_forever()


async def test_only_the_clients_own_work_ends(ends: Pair):
    """One task watches for all, and each hang-up is its own."""
    ours, theirs = ends
    other, far = socket.socketpair()
    ended = []

    async def work(sock: socket.socket, name: str) -> None:
        with ends_at_hang_up(sock):
            await trio.sleep_forever()
        ended.append(name)

    with other, far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, ours, "one")
            nursery.start_soon(work, other, "two")
            await trio.testing.wait_all_tasks_blocked()
            theirs.close()
            while not ended:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert ended == ["one"]
            far.close()
    assert ended == ["one", "two"]


async def test_work_that_ends_by_itself_is_watched_no_longer(ends: Pair):
    """A later hang-up, and the same descriptor in other hands, mean nothing."""
    ours, theirs = ends
    with ends_at_hang_up(ours) as scope:
        await trio.lowlevel.checkpoint()
    theirs.close()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not scope.cancel_called
    with ends_at_hang_up(ours):
        pass


async def test_watching_keeps_one_descriptor_in_all(ends: Pair):
    """However often it is done, only the shared epoll stays."""
    with ends_at_hang_up(ends[0]):
        before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        with ends_at_hang_up(ends[0]):
            await trio.lowlevel.checkpoint()
    assert len(os.listdir("/proc/self/fd")) == before
