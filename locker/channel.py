# SPDX-License-Identifier: GPL-3.0-or-later
"""The transport between the daemon and its helper processes: one datagram, one message.

A channel is one end of a pair of connected SOCK_SEQPACKET sockets. A datagram carries one
message of the channel's `Codec`, and the file descriptors that go with it beside it. A message
too large for a datagram travels in a sealed memfd: the datagram then is its length alone, a
CBOR integer, and the memfd the first descriptor.

This package is the only user of sendmsg and recvmsg in helpers. Received descriptors are
close-on-exec and belong to the receiver; whenever `receive` raises, it has closed them.

Entry points: `Channel` for the blocking main loop of a helper (this module imports no trio, so
that helpers start fast), `locker.aio.AsyncChannel` for the daemon's end, `locker.start` to
start a helper and, inside it, to adopt its end.
"""

import array
import fcntl
import os
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import cbor2

from locker.codec import Codec, parse
from locker.errors import ChannelClosedError, LostDescriptorsError, MessageError

__all__ = ["MAX_DATAGRAM", "MAX_DESCRIPTORS", "MAX_MESSAGE", "Channel", "Codec", "Packet"]

MAX_DATAGRAM = 32 * 1024
"""Bytes of a message that still travels as a datagram: well below the default SO_SNDBUF of
212,992, so that several fit, and small enough that the kernel keeps it in one piece."""

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of a message. A container with 10,000 inputs takes about one MiB."""

MAX_DESCRIPTORS = 252
"""Descriptors beside a message: the kernel's SCM_MAX_FD is 253, and a memfd may need one."""

_INT_SIZE = array.array("i").itemsize
_ANCILLARY_SIZE = socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * _INT_SIZE)
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Packet(NamedTuple):
    """What one recvmsg gave: the datagram, and its descriptors, which the holder must close."""

    data: bytes
    fds: tuple[int, ...]
    complete: bool


class Outgoing:
    """One message ready to be sent, by as many attempts as it takes; a context manager."""

    __slots__ = ("_body_fd", "ancillary", "data")

    def __init__(self, codec: Codec, message: object, fds: Sequence[int]) -> None:
        if len(fds) > codec.descriptor_limit(message):
            raise ValueError(f"{len(fds)} descriptors beside a {type(message).__name__}")
        self.data = codec.encode(message)
        self._body_fd = -1
        if len(self.data) > MAX_DATAGRAM:
            self._body_fd = _sealed_memfd(self.data)
            self.data = cbor2.dumps(len(self.data))
            fds = (self._body_fd, *fds)
        self.ancillary = (
            ((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)),) if fds else ()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._body_fd >= 0:
            os.close(self._body_fd)

    def send(self, sock: socket.socket) -> None:
        """Send by one system call; BlockingIOError where that has to wait.

        Raises:
            ChannelClosedError: The other end is gone.
        """
        try:
            if self.ancillary:
                sock.sendmsg((self.data,), self.ancillary, socket.MSG_NOSIGNAL)
            else:
                sock.send(self.data, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionError) as error:
            raise ChannelClosedError("the other end of the channel is gone") from error


def _sealed_memfd(data: bytes) -> int:
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(data)} bytes, the limit is {MAX_MESSAGE}")
    fd = os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def receive_packet(sock: socket.socket) -> Packet:
    """Receive one datagram by one system call; BlockingIOError where that has to wait.

    Raises:
        ChannelClosedError: The other end is gone.
    """
    try:
        data, ancillary, flags, _ = sock.recvmsg(
            MAX_DATAGRAM, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError as error:
        raise ChannelClosedError("the other end of the channel is gone") from error
    fds = _descriptors(ancillary) if ancillary else ()
    if flags & socket.MSG_TRUNC:
        close_all(fds)
        raise MessageError(f"a datagram of more than {MAX_DATAGRAM} bytes")
    if not data:
        close_all(fds)
        raise ChannelClosedError("the other end closed the channel")
    return Packet(data, fds, complete=not flags & socket.MSG_CTRUNC)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % _INT_SIZE])
    return tuple(fds)


def open_packet(codec: Codec, packet: Packet) -> tuple[Any, tuple[int, ...]]:
    """Give the message and the descriptors of a packet; close these where it raises.

    Raises:
        MessageError: The datagram is no message of the codec, or has descriptors that do not
            belong beside it.
        LostDescriptorsError: Some descriptors did not arrive.
    """
    fds = packet.fds
    try:
        value = parse(packet.data)
        if type(value) is int:
            value, fds = _fetch_body(value, packet), fds[1:]
            os.close(packet.fds[0])
        message = codec.from_value(value)
        _check_descriptors(codec, message, fds, packet)
    except BaseException:
        close_all(fds)
        raise
    return message, fds


def _fetch_body(size: int, packet: Packet) -> Any:
    """Read and parse the message whose memfd is the packet's first descriptor.

    Only a sealed memfd is read: its bytes are in memory and stay as they are, while reading
    another kind of file might block for ever.
    """
    if not packet.fds:
        raise MessageError("a message was announced without its memfd")
    if not MAX_DATAGRAM < size <= MAX_MESSAGE:
        raise MessageError(f"a message of {size} bytes was announced as a large one")
    fd = packet.fds[0]
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise MessageError("a message was announced in a file that is no memfd") from error
    if seals & _SEALS != _SEALS or os.fstat(fd).st_size != size:
        raise MessageError("a message's memfd is not sealed, or not of the size announced")
    return parse(_read_exactly(fd, size))


def _read_exactly(fd: int, size: int) -> bytes:
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def _check_descriptors(codec: Codec, message: object, fds: tuple[int, ...], packet: Packet) -> None:
    name = type(message).__name__
    if not packet.complete:
        raise LostDescriptorsError(f"no room for the descriptors of a {name}", message)
    if len(fds) > codec.descriptor_limit(message):
        raise MessageError(f"{len(fds)} descriptors beside a {name}")


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody will use."""
    for fd in fds:
        os.close(fd)


class Channel:
    """A channel whose calls block: for the main loop of a helper, and for threads.

    Sending and receiving may go on in two threads at once, and several may send.

    Args:
        sock: A connected SOCK_SEQPACKET socket; the channel owns it.
        codec: The messages of both directions.
    """

    def __init__(self, sock: socket.socket, codec: Codec) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._codec = codec

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Give the socket's descriptor, for poll."""
        return self._socket.fileno()

    def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """Send a message with duplicates of the descriptors.

        Raises:
            ChannelClosedError: The other end is gone.
        """
        with Outgoing(self._codec, message, fds) as outgoing:
            outgoing.send(self._socket)

    def receive(self) -> tuple[Any, tuple[int, ...]]:
        """Wait for a message; give it and its descriptors, which are now the caller's.

        Raises:
            ChannelClosedError: The other end is gone.
            MessageError: What arrived is no message; the channel remains usable.
        """
        return open_packet(self._codec, receive_packet(self._socket))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
