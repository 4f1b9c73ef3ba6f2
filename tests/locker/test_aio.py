# SPDX-License-Identifier: GPL-3.0-or-later
import dataclasses
import os
import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from locker.aio import MAX_BURST, AsyncChannel
from locker.channel import Channel, Codec
from locker.errors import ChannelClosedError, MessageError

pytestmark = pytest.mark.usefixtures("no_leaks")


@dataclasses.dataclass(frozen=True, slots=True)
class Carry:
    """A message of any size."""

    number: int
    body: bytes


CODEC = Codec(Carry, descriptors={Carry: 4})
BODY = bytes(10_000)
Ends = tuple[AsyncChannel, Channel]


@pytest.fixture
def ends(seqpacket_pair: tuple[socket.socket, socket.socket]) -> Iterator[Ends]:
    """Give the daemon's end and a helper's."""
    with Channel(seqpacket_pair[1], CODEC) as theirs:
        yield AsyncChannel(seqpacket_pair[0], CODEC), theirs


def fill(ours: AsyncChannel) -> int:
    """Send until the socket is full; give the number of messages sent."""
    count = 0
    while True:
        try:
            ours.send_nowait(Carry(count, BODY))
        except trio.WouldBlock:
            return count
        count += 1


async def test_messages_and_descriptors_travel_both_ways(ends: Ends) -> None:
    """Small, large, and with descriptors."""
    ours, theirs = ends
    cases: tuple[tuple[Carry, tuple[int, ...]], ...] = (
        (Carry(1, b""), ()),
        (Carry(2, bytes(300_000)), (0, 0)),
        (Carry(3, b""), (0,)),
    )
    for message, fds in cases:
        await ours.send(message, fds)
        received, got = theirs.receive()
        theirs.send(received, got)
        back, again = await ours.receive()
        assert back == message
        assert len(again) == len(fds)
        for fd in (*got, *again):
            os.close(fd)


async def test_senders_wait_for_room_in_order(ends: Ends) -> None:
    """A full socket makes them wait; then they go first come, first served."""
    ours, theirs = ends
    sent = fill(ours)
    async with trio.open_nursery() as nursery:
        for number in range(sent, sent + 20):
            nursery.start_soon(ours.send, Carry(number, BODY))
            await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            ours.send_nowait(Carry(-1, b""))

        def receive_all() -> list[int]:
            return [theirs.receive()[0].number for _ in range(sent + 20)]

        assert await trio.to_thread.run_sync(receive_all) == list(range(sent + 20))


async def test_a_cancelled_sender_has_sent_nothing(ends: Ends) -> None:
    """Nor does it disturb those behind it."""
    ours, theirs = ends
    sent = fill(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send, Carry(1000, BODY), (0,))
        await wait_all_tasks_blocked()
        scope = trio.CancelScope()

        async def send_cancelled() -> None:
            with scope:
                await ours.send(Carry(2000, bytes(100_000)), (0,))

        nursery.start_soon(send_cancelled)
        nursery.start_soon(ours.send, Carry(3000, BODY))
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()

        def receive_all() -> list[int]:
            numbers = []
            for _ in range(sent + 2):
                message, fds = theirs.receive()
                numbers.append(message.number)
                for fd in fds:
                    os.close(fd)
            return numbers

        numbers = await trio.to_thread.run_sync(receive_all)
    assert numbers[-2:] == [1000, 3000]


async def test_a_run_of_messages_does_not_keep_the_loop(ends: Ends) -> None:
    """Other tasks get their turn although there is always something to receive."""
    ours, theirs = ends
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    for number in range(2 * MAX_BURST + 2):
        theirs.send(Carry(number, b""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        for _ in range(2 * MAX_BURST + 2):
            await ours.receive()
        assert turns >= 1
        nursery.cancel_scope.cancel()


async def test_closing_wakes_the_receiver(ends: Ends) -> None:
    """It learns that the channel is closed; and so does the helper."""
    ours, theirs = ends
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def receive() -> None:
            with pytest.raises(ChannelClosedError):
                await ours.receive()

        await wait_all_tasks_blocked()
        ours.close()
    ours.close()
    for attempt in (ours.receive(), ours.send(Carry(1, b""))):
        with pytest.raises(ChannelClosedError):
            await attempt
    with pytest.raises(ChannelClosedError):
        theirs.receive()


async def test_closing_wakes_a_waiting_sender(ends: Ends) -> None:
    """It does not wait for room that will never be."""
    ours, _ = ends
    fill(ours)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(ChannelClosedError):
                await ours.send(Carry(1, BODY))

        await wait_all_tasks_blocked()
        ours.close()


async def test_the_end_of_the_helper_and_garbage_are_told_apart(
    seqpacket_pair: tuple[socket.socket, socket.socket],
) -> None:
    """Garbage leaves the channel usable, the end does not."""
    ours = AsyncChannel(seqpacket_pair[0], CODEC)
    seqpacket_pair[1].send(b"\xff")
    with pytest.raises(MessageError):
        await ours.receive()
    seqpacket_pair[1].close()
    with pytest.raises(ChannelClosedError):
        await ours.receive()
    with pytest.raises(ChannelClosedError):
        await ours.send(Carry(1, b""))
