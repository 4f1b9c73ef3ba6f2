# SPDX-License-Identifier: GPL-3.0-or-later
import array
import dataclasses
import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest

from locker.channel import MAX_DATAGRAM, MAX_DESCRIPTORS, MAX_MESSAGE, Channel, Codec
from locker.errors import ChannelClosedError, LostDescriptorsError, MessageError

pytestmark = pytest.mark.usefixtures("no_leaks")


@dataclasses.dataclass(frozen=True, slots=True)
class Carry:
    """A message that takes descriptors."""

    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Bare:
    """A message that takes none."""

    number: int


CODEC = Codec(Carry, Bare, descriptors={Carry: MAX_DESCRIPTORS})
Sockets = tuple[socket.socket, socket.socket]


@pytest.fixture
def channels(seqpacket_pair: Sockets) -> Iterator[tuple[Channel, Channel]]:
    """Give both ends of a channel."""
    with Channel(seqpacket_pair[0], CODEC) as first, Channel(seqpacket_pair[1], CODEC) as second:
        yield first, second


@pytest.fixture
def receiver(seqpacket_pair: Sockets) -> tuple[socket.socket, Channel]:
    """Give a socket to misuse, and the channel at its other end."""
    return seqpacket_pair[0], Channel(seqpacket_pair[1], CODEC)


def send_raw(sock: socket.socket, data: bytes, *fds: int) -> None:
    """Send any bytes and descriptors."""
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def close_received(fds: tuple[int, ...]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def test_messages_arrive_in_order_and_in_both_directions(
    channels: tuple[Channel, Channel],
) -> None:
    """A channel keeps the bounds and the order of messages."""
    first, second = channels
    for number in range(10):
        first.send(Bare(number))
    second.send(Bare(-1))
    assert [second.receive() for _ in range(10)] == [(Bare(i), ()) for i in range(10)]
    assert first.receive() == (Bare(-1), ())


@pytest.mark.parametrize("count", [1, 2, MAX_DESCRIPTORS])
@pytest.mark.parametrize("size", [0, 2 * MAX_DATAGRAM])
def test_descriptors_arrive_beside_their_message(
    channels: tuple[Channel, Channel], tmp_path: Path, count: int, size: int
) -> None:
    """The same open files arrive, in order, close-on-exec; also beside a large message."""
    files = [os.open(tmp_path / str(i % 5), os.O_RDWR | os.O_CREAT) for i in range(count)]
    channels[0].send(Carry(bytes(size)), files)
    message, fds = channels[1].receive()
    assert message == Carry(bytes(size))
    assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in files]
    assert not any(os.get_inheritable(fd) for fd in fds)
    close_received((*fds, *files))


@pytest.mark.parametrize("size", [MAX_DATAGRAM - 20, MAX_DATAGRAM, 1_000_000, 20_000_000])
def test_large_messages_get_through(channels: tuple[Channel, Channel], size: int) -> None:
    """What no socket buffer holds goes another way, without a reader at the other end."""
    body = os.urandom(size)
    channels[0].send(Carry(body))
    assert channels[1].receive() == (Carry(body), ())


def test_a_message_above_the_limit_is_not_sent(channels: tuple[Channel, Channel]) -> None:
    """The limit is found by the sender, whose fault it is."""
    with pytest.raises(ValueError, match="limit"):
        channels[0].send(Carry(bytes(MAX_MESSAGE)))


def test_more_descriptors_than_allowed_are_not_sent(
    channels: tuple[Channel, Channel],
) -> None:
    """A message type takes as many as the codec says."""
    with pytest.raises(ValueError, match="1 descriptors beside a Bare"):
        channels[0].send(Bare(1), [0])


def test_the_end_of_the_peer_is_an_error_of_its_own(channels: tuple[Channel, Channel]) -> None:
    """Receivers and senders learn that the peer is gone; what it sent before still arrives."""
    first, second = channels
    first.send(Bare(1))
    first.close()
    assert second.receive() == (Bare(1), ())
    with pytest.raises(ChannelClosedError):
        second.receive()
    with pytest.raises(ChannelClosedError):
        second.send(Bare(2))


def test_unexpected_descriptors_are_closed(receiver: tuple[socket.socket, Channel]) -> None:
    """They are an error of the sender, and leave nothing open."""
    send_raw(receiver[0], CODEC.encode(Bare(1)), 0, 1)
    with pytest.raises(MessageError, match="2 descriptors beside a Bare"):
        receiver[1].receive()


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x80", b"\x01\x01", cbor2.dumps(["Bare", "1"]), cbor2.dumps(["Other"])]
)
def test_garbage_is_refused_and_its_descriptors_closed(
    receiver: tuple[socket.socket, Channel], data: bytes
) -> None:
    """After that the channel still works."""
    send_raw(receiver[0], data, 0)
    with pytest.raises(MessageError):
        receiver[1].receive()
    receiver[0].send(CODEC.encode(Bare(1)))
    assert receiver[1].receive() == (Bare(1), ())


def test_an_oversized_datagram_is_refused(receiver: tuple[socket.socket, Channel]) -> None:
    """It is not taken for its beginning, and its descriptors are closed."""
    body = CODEC.encode(Carry(bytes(MAX_DATAGRAM)))
    send_raw(receiver[0], body, 0)
    receiver[0].send(body)
    for _ in range(2):
        with pytest.raises(MessageError, match="datagram of more than"):
            receiver[1].receive()


def memfd(data: bytes, seals: int) -> int:
    """Make a memfd with these bytes and seals."""
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def test_a_large_message_must_come_in_a_sealed_memfd(
    receiver: tuple[socket.socket, Channel], tmp_path: Path
) -> None:
    """Whatever else is announced as one is neither read nor kept open."""
    body = CODEC.encode(Carry(bytes(MAX_DATAGRAM)))
    size = len(body)
    pipe, other = os.pipe()
    plain = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(plain, body)
    good, unsealed = memfd(body, SEALED), memfd(body, fcntl.F_SEAL_GROW)
    garbage = memfd(b"\xff" * size, SEALED)
    attempts = [(size, fd) for fd in (pipe, plain, unsealed, garbage)] + [
        (wrong, good) for wrong in (size - 1, size + 1, 0, -1, MAX_DATAGRAM, 2**63)
    ]
    for announced, fd in attempts:
        send_raw(receiver[0], cbor2.dumps(announced), fd)
        with pytest.raises(MessageError):
            receiver[1].receive()
    receiver[0].send(cbor2.dumps(size))
    with pytest.raises(MessageError, match="without its memfd"):
        receiver[1].receive()
    send_raw(receiver[0], cbor2.dumps(size), good)
    assert receiver[1].receive()[0] == Carry(bytes(MAX_DATAGRAM))
    close_received((pipe, other, plain, good, unsealed, garbage))


def test_lost_descriptors_are_reported_with_the_message(
    channels: tuple[Channel, Channel],
) -> None:
    """A receiver at its descriptor limit can still tell the sender; what did arrive is closed."""
    first, second = channels
    spare = os.dup(0)
    os.close(spare)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first.send(Carry(b"many"), [0] * 20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 5, hard))
    try:
        with pytest.raises(LostDescriptorsError) as caught:
            second.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.content == Carry(b"many")
