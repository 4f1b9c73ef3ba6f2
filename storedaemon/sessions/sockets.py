# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing a client's socket from the event loop.

Every socket here is non-blocking. The system is asked first and waited for only
when it has nothing, which spares most round trips the way through the poll.
"""

import contextlib
import socket

import trio

RECEIVE_SIZE = 64 * 1024
_MOST_DISCARDED = 1024 * 1024 * 1024


class ClientGoneError(Exception):
    """The client closed its end, so nobody is left to answer."""


def receive_now(sock: socket.socket, size: int = RECEIVE_SIZE) -> bytes | None:
    """Give what the client sent already; nothing at its end, None if it sent nothing.

    Raises:
        ClientGoneError: It closed its end with an error.
    """
    try:
        return sock.recv(size)
    except BlockingIOError:
        return None
    except OSError as error:
        raise ClientGoneError(str(error)) from error


async def receive(sock: socket.socket, size: int = RECEIVE_SIZE) -> bytes:
    """Give what the client sends next, once it does; nothing at its end.

    Raises:
        ClientGoneError: It closed its end with an error.
    """
    while (data := receive_now(sock, size)) is None:
        await trio.lowlevel.wait_readable(sock)
    return data


def send_now(sock: socket.socket, data: bytes | bytearray | memoryview) -> int:
    """Send what the system takes at once; give how many bytes that was.

    Raises:
        ClientGoneError: The client no longer takes it.
    """
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise ClientGoneError(str(error)) from error


async def send(sock: socket.socket, data: bytes | bytearray) -> None:
    """Send all of `data`; only one task at a time may.

    Raises:
        ClientGoneError: The client no longer takes it.
    """
    sent = send_now(sock, data)
    if sent == len(data):
        return
    with memoryview(data) as view:
        while sent < len(data):
            await trio.lowlevel.wait_writable(sock)
            sent += send_now(sock, view[sent:])


async def linger(sock: socket.socket, seconds: float) -> None:
    """End the connection so that a client that still sends can read the last answer.

    Closing a socket with unread data resets the connection, and a client in
    the middle of a long request would see that instead of our error.
    """
    with contextlib.suppress(ClientGoneError, OSError), trio.move_on_after(seconds):
        sock.shutdown(socket.SHUT_WR)
        discarded = 0
        while discarded < _MOST_DISCARDED and (data := await receive(sock)):
            discarded += len(data)
            await trio.lowlevel.checkpoint()
