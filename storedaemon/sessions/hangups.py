# SPDX-License-Identifier: GPL-3.0-or-later
"""Noticing clients that hang up while something long is done for them.

One epoll and one task watch the sockets of all clients that wait: a task for
each would cost more than the quickest of the requests it watches over. Entry
point: `ends_at_hang_up`.
"""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio

_watcher: trio.lowlevel.RunVar["_Watcher"] = trio.lowlevel.RunVar("hang_up_watcher")


@contextmanager
def ends_at_hang_up(sock: socket.socket) -> Iterator[trio.CancelScope]:
    """Cancel what is within once the client has closed its end.

    Only the hang-up itself is asked for (``EPOLLRDHUP``), and nothing is read:
    waiting for readability would be over at once where a client has sent its
    next request ahead.

    Args:
        sock: The client's socket. One at a time may watch it.

    Yields:
        The scope, whose `cancelled_caught` tells afterwards whether it was so.
    """
    watcher = _get_watcher()
    scope = trio.CancelScope()
    watcher.add(sock, scope)
    try:
        with scope:
            yield scope
    finally:
        watcher.remove(sock)


def _get_watcher() -> "_Watcher":
    try:
        return _watcher.get()
    except LookupError:
        watcher = _Watcher()
        _watcher.set(watcher)
        trio.lowlevel.spawn_system_task(watcher.run)
        return watcher


class _Watcher:
    """Watches sockets for hang-ups, for one event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._scopes: dict[int, trio.CancelScope] = {}

    def add(self, sock: socket.socket, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the other end of `sock` is closed, even if it is already."""
        self._epoll.register(sock, select.EPOLLRDHUP | select.EPOLLONESHOT)
        self._scopes[sock.fileno()] = scope

    def remove(self, sock: socket.socket) -> None:
        """Watch a socket no longer."""
        del self._scopes[sock.fileno()]
        self._epoll.unregister(sock)

    async def run(self) -> None:
        """Watch until the event loop ends."""
        with self._epoll:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fd, _ in self._epoll.poll(0):
                    self._scopes[fd].cancel()
