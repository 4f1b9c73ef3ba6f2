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
from typing import Any, NoReturn, Self

import cbor2

from locker.codec import Codec, parse
from locker.errors import ChannelClosedError, LostDescriptorsError, MessageError

__all__ = ["MAX_DATAGRAM", "MAX_DESCRIPTORS", "MAX_MESSAGE", "Channel", "Codec"]

MAX_DATAGRAM = 32 * 1024
"""Bytes of a message that still travels as a datagram: well below the default SO_SNDBUF of
212,992, so that several fit, and small enough that the kernel keeps it in one piece."""

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of a message. A container with 10,000 inputs takes about one MiB."""

MAX_DESCRIPTORS = 252
"""Descriptors beside a message: the kernel's SCM_MAX_FD is 253, and a memfd may need one."""

_INT_SIZE = array.array("i").itemsize
_ANCILLARY_SIZE = socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * _INT_SIZE)
_CLOEXEC = socket.MSG_CMSG_CLOEXEC
_CUT = socket.MSG_TRUNC | socket.MSG_CTRUNC
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def prepare(
    codec: Codec, message: object, fds: Sequence[int]
) -> tuple[bytes, Sequence[int], int | None]:
    """Give the datagram and the descriptors to send, and which of these to close afterwards.

    Raises:
        ValueError: More descriptors than may go beside this message, or more bytes than any.
    """
    if fds and len(fds) > codec.descriptor_limit(message):
        raise ValueError(f"{len(fds)} descriptors beside a {type(message).__name__}")
    data = codec.encode(message)
    if len(data) <= MAX_DATAGRAM:
        return data, fds, None
    body = _sealed_memfd(data)
    return cbor2.dumps(len(data)), (body, *fds), body


def send_datagram(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """Send by one system call; BlockingIOError where that has to wait.

    Raises:
        ChannelClosedError: The other end is gone.
    """
    try:
        if fds:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            sock.sendmsg((data,), (rights,))
        else:
            sock.send(data)
    except ConnectionError as error:
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


def receive_datagram(sock: socket.socket, codec: Codec) -> tuple[Any, tuple[int, ...]]:
    """Receive a message by one system call; BlockingIOError where that has to wait.

    Returns:
        The message and its descriptors, which the caller must close.

    Raises:
        ChannelClosedError: The other end is gone.
        MessageError: What arrived is no message of the codec, or has descriptors that do not
            belong beside it; they are closed.
        LostDescriptorsError: Some descriptors did not arrive; the others are closed.
    """
    try:
        data, ancillary, flags, _ = sock.recvmsg(MAX_DATAGRAM, _ANCILLARY_SIZE, _CLOEXEC)
    except ConnectionError as error:
        raise ChannelClosedError("the other end of the channel is gone") from error
    if not data:
        close_all(_descriptors(ancillary))
        raise ChannelClosedError("the other end closed the channel")
    if ancillary or flags & _CUT:
        return _open(codec, data, _descriptors(ancillary), flags)
    value = parse(data)
    if type(value) is int:
        raise MessageError("a large message was announced without its memfd")
    return codec.from_value(value), ()


def _open(
    codec: Codec, data: bytes, fds: tuple[int, ...], flags: int
) -> tuple[Any, tuple[int, ...]]:
    """Give the message and descriptors of a datagram; close the latter where it raises."""
    try:
        if flags & socket.MSG_TRUNC:
            _refuse(f"a datagram of more than {MAX_DATAGRAM} bytes")
        value = parse(data)
        if type(value) is int:
            value = _fetch_body(value, fds)
            os.close(fds[0])
            fds = fds[1:]
        message = codec.from_value(value)
        if flags & socket.MSG_CTRUNC:
            _report_lost(message)
        if len(fds) > codec.descriptor_limit(message):
            _refuse(f"{len(fds)} descriptors beside a {type(message).__name__}")
    except BaseException:
        close_all(fds)
        raise
    return message, fds


def _refuse(problem: str) -> NoReturn:
    raise MessageError(problem)


def _report_lost(message: object) -> NoReturn:
    name = type(message).__name__
    raise LostDescriptorsError(f"no room for the descriptors of a {name}", message)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT_SIZE])
    return tuple(fds)


def _fetch_body(size: int, fds: tuple[int, ...]) -> Any:
    """Read and parse the large message whose memfd is the first descriptor.

    Only a sealed memfd is read: its bytes are in memory and stay as they are, while reading
    another kind of file might block for ever.
    """
    if not fds:
        raise MessageError("a large message was announced without its memfd")
    if not MAX_DATAGRAM < size <= MAX_MESSAGE:
        raise MessageError(f"a message of {size} bytes was announced as a large one")
    try:
        seals = fcntl.fcntl(fds[0], fcntl.F_GET_SEALS)
    except OSError as error:
        raise MessageError("a large message was announced in a file that is no memfd") from error
    if seals & _SEALS != _SEALS or os.fstat(fds[0]).st_size != size:
        raise MessageError("a message's memfd is not sealed, or not of the size announced")
    return parse(_read_exactly(fds[0], size))


def _read_exactly(fd: int, size: int) -> bytes:
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody will use, by one system call where they are in a row."""
    if fds and len(set(fds)) == max(fds) - min(fds) + 1:
        os.closerange(min(fds), max(fds) + 1)
        return
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
        data, fds, body = prepare(self._codec, message, fds)
        try:
            send_datagram(self._socket, data, fds)
        finally:
            if body is not None:
                os.close(body)

    def receive(self) -> tuple[Any, tuple[int, ...]]:
        """Wait for a message; give it and its descriptors, which are now the caller's.

        Raises:
            ChannelClosedError: The other end is gone.
            MessageError: What arrived is no message; the channel remains usable.
        """
        return receive_datagram(self._socket, self._codec)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
