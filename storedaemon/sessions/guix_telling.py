# SPDX-License-Identifier: GPL-3.0-or-later
"""Showing a Guix client what happens to its builds. Entry point: `Teller`."""

import socket
from collections.abc import Callable, Iterable

from builder.events import BuildEvent
from storedaemon.sessions.guix_output import Audience, render
from storedaemon.sessions.sockets import send, send_now


class Teller:
    """Shows events to one client, as far as it wants to see them; a `Tell`.

    Args:
        sock: The client's socket.
        frame: Makes of a text what the client can tell from a reply.

    Attributes:
        audience: What it wants to see.
    """

    def __init__(self, sock: socket.socket, frame: Callable[[bytes], bytes]) -> None:
        self._sock = sock
        self._frame = frame
        self._unsent = b""
        self.audience = Audience()

    async def __call__(self, *events: BuildEvent) -> None:
        """Show events, or what is left of the one that `at_once` has begun to show.

        Raises:
            ClientGoneError: The client no longer takes them.
        """
        data = self._unsent or self._frames(events)
        self._unsent = b""
        if data:
            await send(self._sock, data)

    def at_once(self, event: BuildEvent) -> bool:
        """Show one without waiting; where this gives False, the next call has to show it.

        A builder of several clients' calls this. What is wrong with one of them is raised
        where that one waits, by the next call.
        """
        try:
            data = self._frames((event,))
            sent = send_now(self._sock, data) if data else 0
        except Exception:  # noqa: BLE001 - as said
            return False
        self._unsent = data[sent:] if sent else b""
        return sent == len(data)

    def _frames(self, events: Iterable[BuildEvent]) -> bytes:
        frame, audience = self._frame, self.audience
        return b"".join([frame(text) for event in events for text in render(event, audience)])
