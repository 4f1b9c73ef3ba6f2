# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of one native connection, on either side, without I/O.

`ServerConnection` and `ClientConnection` turn bytes into messages that make
sense in the connection's state, and refuse the rest. Messages for requests that
have ended are dropped here: the peer could not yet know.
"""

from collections.abc import Iterator, Mapping

from storedaemon.wire.native import messages
from storedaemon.wire.native.cbor import ItemLimits
from storedaemon.wire.native.faults import FaultError
from storedaemon.wire.native.frames import MAX_FRAME, FrameReader
from storedaemon.wire.native.messages import Message
from storedaemon.wire.native.windows import (
    DAEMON_WINDOW,
    SMALLEST_WINDOW,
    Incoming,
    Outgoing,
)

VERSION = 1
"""The version of the protocol that `docs/protocol.md` describes, and the only one so far."""

FEATURES = frozenset(
    {
        "add",
        "build",
        "control",
        "derivations",
        "enter",
        "exports",
        "garbage",
        "logs",
        "maintenance",
        "monitor",
        "roots",
    }
)
"""Groups of methods that this code has."""

ITEM_LIMITS = ItemLimits()
MAX_REQUESTS = 32
"""Requests that one connection may have in flight."""

MAX_TEXT = 32 << 20
"""Bytes of the longest content of `add-text`, which is held in memory."""

MAX_HELD = 96 << 20
"""Bytes of requests and bodies that one connection may have in memory."""


def limits() -> Mapping[str, int]:
    """Give the limits that the daemon announces."""
    return {
        "frame": MAX_FRAME,
        "items": ITEM_LIMITS.items,
        "depth": ITEM_LIMITS.depth,
        "requests": MAX_REQUESTS,
        "window": DAEMON_WINDOW,
        "text": MAX_TEXT,
        "held": MAX_HELD,
    }


def agree_version(theirs: tuple[int, int]) -> int:
    """Choose the newest version that both sides speak.

    Raises:
        FaultError: There is none.
    """
    oldest, newest = theirs
    if oldest > VERSION:
        raise FaultError(
            "unsupported-version",
            f"the peer speaks versions {oldest} to {newest}, this side {VERSION} only",
        )
    return min(newest, VERSION)


class ServerConnection:
    """The daemon's side: which requests are in flight, and their windows."""

    __slots__ = ("_incoming", "_last_id", "_outgoing", "_reader", "hello")

    def __init__(self) -> None:
        self.hello: messages.ClientHello | None = None
        self._reader = FrameReader()
        self._last_id = -1
        self._incoming: dict[int, Incoming] = {}
        self._outgoing: dict[int, Outgoing] = {}

    def receive(self, data: bytes) -> Iterator[tuple[Message, int]]:
        """Take bytes; give the messages that they complete, each with its frame's length.

        Raises:
            FaultError: The client broke the protocol. Nothing more can be received.
        """
        for body in self._reader.feed(data):
            message = messages.parse_message(body, messages.FROM_CLIENT, ITEM_LIMITS)
            if self._accept(message, len(body)):
                yield message, len(body)

    def end_of_input(self) -> None:
        """Note that the client writes no more.

        Raises:
            FaultError: It did so within a frame.
        """
        if self._reader.pending:
            raise FaultError("truncated", "the connection ended within a frame")

    def finish(self, request: int) -> None:
        """Forget a request: its reply is on its way."""
        self._incoming.pop(request, None)
        self._outgoing.pop(request, None)

    def window_of(self, request: int) -> Outgoing:
        """Give the window for what the daemon streams for a request in flight."""
        return self._outgoing[request]

    def consumed(self, request: int, length: int) -> int:
        """Count a chunk that was dealt with; give the credit to send now, or 0."""
        incoming = self._incoming.get(request)
        return incoming.consumed(length) if incoming else 0

    @property
    def frame(self) -> int:
        """Bytes of the frame that has begun and of which more are to come; 0 if none has."""
        return self._reader.announced

    @property
    def in_flight(self) -> int:
        """Requests whose reply has not been sent."""
        return len(self._incoming)

    def _accept(self, message: Message, length: int) -> bool:
        match message:
            case messages.ClientHello():
                self._greet(message)
            case messages.Request(id=request):
                self._begin(request)
            case messages.Chunk(id=request) if incoming := self._incoming.get(request):
                incoming.received(length)
            case messages.Credit(id=request, bytes=amount) if outgoing := self._outgoing.get(
                request
            ):
                outgoing.credit(amount)
            case messages.End(id=request) | messages.Cancel(id=request):
                return request in self._incoming
            case _:
                return False
        return True

    def _greet(self, hello: messages.ClientHello) -> None:
        if self.hello is not None:
            raise FaultError("malformed-message", "a second hello")
        agree_version(hello.versions)
        if 0 < hello.window < SMALLEST_WINDOW:
            raise FaultError(
                "malformed-message", f"a window of {hello.window}; it must be 0 or at least"
                f" {SMALLEST_WINDOW}",
            )  # fmt: skip
        self.hello = hello

    def _begin(self, request: int) -> None:
        if self.hello is None:
            raise FaultError("malformed-message", "a request before the hello")
        if request <= self._last_id:
            raise FaultError("request-id", f"request {request} after request {self._last_id}")
        if len(self._incoming) >= MAX_REQUESTS:
            raise FaultError("too-many-requests", f"more than {MAX_REQUESTS} requests in flight")
        self._last_id = request
        self._incoming[request] = Incoming(DAEMON_WINDOW)
        self._outgoing[request] = Outgoing(self.hello.window)


class ClientConnection:
    """The client's side; knows the daemon's hello and the windows of its own requests.

    Args:
        window: Bytes a request that the daemon may send ahead; 0 for no bound.
    """

    __slots__ = ("_incoming", "_outgoing", "_reader", "_window", "hello")

    def __init__(self, window: int = 4 * SMALLEST_WINDOW) -> None:
        self.hello: messages.ServerHello | None = None
        self._reader = FrameReader()
        self._window = window
        self._incoming: dict[int, Incoming] = {}
        self._outgoing: dict[int, Outgoing] = {}

    def greeting(self, client: str) -> messages.ClientHello:
        """Make this side's hello."""
        return messages.ClientHello((VERSION, VERSION), FEATURES, self._window, client)

    def receive(self, data: bytes) -> Iterator[tuple[Message, int]]:
        """Take bytes; give the messages that they complete, each with its frame's length.

        Raises:
            FaultError: The daemon broke the protocol, or speaks another version.
        """
        for body in self._reader.feed(data):
            message = messages.parse_message(body, messages.FROM_DAEMON, ITEM_LIMITS)
            if self._accept(message, len(body)):
                yield message, len(body)

    def begin(self, request: int) -> None:
        """Note a request that is about to be sent; the hello has to have come."""
        window = self.hello.limits.get("window", DAEMON_WINDOW) if self.hello else DAEMON_WINDOW
        self._incoming[request] = Incoming(self._window)
        self._outgoing[request] = Outgoing(window)

    def finish(self, request: int) -> None:
        """Forget a request that was answered."""
        self._incoming.pop(request, None)
        self._outgoing.pop(request, None)

    def window_of(self, request: int) -> Outgoing:
        """Give the window for the body of a request that is begun and not finished."""
        return self._outgoing[request]

    def consumed(self, request: int, length: int) -> int:
        """Count a stream frame that was dealt with; give the credit to send now, or 0."""
        incoming = self._incoming.get(request)
        return incoming.consumed(length) if incoming and self._window else 0

    def _accept(self, message: Message, length: int) -> bool:
        match message:
            case messages.ServerHello():
                if self.hello is not None:
                    raise FaultError("malformed-message", "a second hello")
                agree_version(message.versions)
                self.hello = message
            case messages.Fault():
                return True
            case messages.Event(id=request) | messages.Chunk(id=request):
                return self._streamed(request, length)
            case messages.Credit(id=request, bytes=amount):
                if outgoing := self._outgoing.get(request):
                    outgoing.credit(amount)
                return outgoing is not None
            case messages.Reply(id=request) | messages.Failure(id=request):
                return request in self._incoming
        return True

    def _streamed(self, request: int, length: int) -> bool:
        incoming = self._incoming.get(request)
        if incoming is None:
            return False
        if self._window:
            incoming.received(length)
        return True
