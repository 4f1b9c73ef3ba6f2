# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's side of one connection in the Guix dialect, without I/O.

    GREETING → VERSION → HELLO → OPENING → READY ⇄ WORKING ⇄ BODY
                                    └──── any ────→ CLOSED

The driver feeds what it receives to `receive_data`, sends every `bytes` that a
method gives, and asks `next_greeting` until the client has introduced itself,
then `next_request` for each request. It answers a request with any number of
`log`, and one `reply` or `error`. An archive that follows a request is taken
with `begin_body` and `end_body`; it does not pass through here.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from storedaemon.wire import guix
from storedaemon.wire.buffer import ReceiveBuffer
from storedaemon.wire.errors import LocalError, RemoteError
from storedaemon.wire.layout import Field, layout_for
from storedaemon.wire.messages import Reply, Request
from storedaemon.wire.primitives import MAX_CHUNK, U64, Contents, write_string


class State(Enum):
    """Where a connection is."""

    GREETING = auto()
    VERSION = auto()
    HELLO = auto()
    OPENING = auto()
    READY = auto()
    WORKING = auto()
    BODY = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Greeting:
    """The client knows the dialect: send `answer`, then wait for the rest."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class Introduction:
    """The client has said all that precedes its requests: answer with `accept` or `refuse`."""

    version: int
    hello: guix.ClientHello


@dataclass(frozen=True, slots=True)
class _Chunk:
    data: bytes


_CHUNK = layout_for(0, _Chunk, (Field("data", Contents(MAX_CHUNK)),))
_LAST = U64.pack(guix.LAST)
_NEXT = U64.pack(guix.NEXT)
_WRITE = U64.pack(guix.WRITE)


class GuixSession:
    """One connection, seen from the daemon."""

    __slots__ = ("_buffer", "_operation", "_operations", "_state", "version")

    def __init__(self) -> None:
        self.version = 0
        self._state = State.GREETING
        self._buffer = ReceiveBuffer()
        self._operations = guix.operations(0)
        self._operation: guix.Operation | None = None

    @property
    def state(self) -> State:
        """Where the connection is."""
        return self._state

    @property
    def minor(self) -> int:
        """The client's minor version, which decides which fields there are."""
        return guix.minor(self.version)

    @property
    def at_boundary(self) -> bool:
        """Whether a client that hangs up now has left nothing unfinished."""
        return self._state is State.READY and self._operation is None and not self._buffer.size

    @property
    def pending(self) -> int:
        """How many received bytes have not been taken yet."""
        return self._buffer.size

    def receive_data(self, data: bytes) -> None:
        """Append bytes from the client."""
        self._buffer.receive_data(data)

    # The handshake

    def next_greeting(self) -> Greeting | Introduction | None:
        """Take the next step of the handshake, or None until more is received.

        Raises:
            RemoteError: The client is none that can be served. In state `GREETING`
                it cannot even be told so; otherwise `refuse` tells it.
        """
        if self._state is State.GREETING:
            return self._read_magic()
        if self._state is State.VERSION and not self._read_version():
            return None
        self._expect(State.HELLO)
        hello = self._buffer.take(guix.client_hello(self.minor))
        if hello is None:
            return None
        self._state = State.OPENING
        return Introduction(self.version, hello)

    def _read_magic(self) -> Greeting | None:
        magic = self._buffer.take_code()
        if magic is None:
            return None
        if magic != guix.CLIENT_MAGIC:
            raise RemoteError(f"protocol mismatch: the client began with {magic:#x}")
        self._state = State.VERSION
        return Greeting(U64.pack(guix.DAEMON_MAGIC) + U64.pack(guix.VERSION))

    def _read_version(self) -> bool:
        version = self._buffer.take_code()
        if version is None:
            return False
        self.version = version
        self._state = State.HELLO
        if version > 0xFFFF or guix.major(version) != guix.major(guix.VERSION):
            raise RemoteError(
                f"unsupported protocol version {version:#x}: its major version is not"
                f" {guix.major(guix.VERSION):#x}",
                reason="unsupported-version",
            )
        self._operations = guix.operations(self.minor)
        return True

    def accept(self) -> bytes:
        """Tell the client that it may send requests."""
        self._expect(State.OPENING)
        self._state = State.READY
        return _LAST

    def refuse(self, message: str) -> bytes:
        """Tell the client why it is not served; the connection ends."""
        self._state = State.CLOSED
        return self._error_frame(message, 1)

    # Requests

    def next_request(self) -> tuple[guix.Operation, Request] | None:
        """Take the next request, or None until all of it is received.

        Raises:
            RemoteError: It is no request; `error` tells the client, and then the
                connection must end, because what follows cannot be understood.
        """
        if self._state is not State.READY:
            self._expect(State.READY)
        operation = self._operation
        if operation is None:
            found = self._buffer.take_whole(self._operations)
            if found is not None:
                self._state = State.WORKING
                return found
            operation = self._next_operation()
            if operation is None:
                return None
        try:
            request = self._buffer.take(operation.request)
        except RemoteError as error:
            self._state = State.WORKING
            raise error.within(operation.name) from error
        if request is None:
            self._operation = operation
            return None
        self._operation = None
        self._state = State.WORKING
        return operation, request

    def _next_operation(self) -> guix.Operation | None:
        try:
            code = self._buffer.take_code()
        except RemoteError as error:
            self._state = State.WORKING
            raise error.within("operation") from error
        if code is None:
            return None
        operation = self._operations.get(code)
        if operation is None:
            self._state = State.WORKING
            raise RemoteError(f"invalid operation {code}", reason="unknown-operation")
        return operation

    # Answers

    def log(self, text: bytes) -> bytes:
        """Show a text to the client's user."""
        self._expect(State.WORKING)
        parts = [_NEXT]
        write_string(text, parts)
        return b"".join(parts)

    def reply(self, operation: guix.Operation, reply: Reply) -> bytes:
        """End the request's work with its result."""
        if self._state is not State.WORKING:
            self._expect(State.WORKING)
        if type(reply) is not operation.reply.type:
            raise LocalError(f"{type(reply).__name__} is no reply to {operation.name}")
        self._state = State.READY
        parts = [_LAST]
        operation.reply.write(reply, parts)
        return b"".join(parts)

    def error(self, message: str, status: int = 1) -> bytes:
        """End the request's work with an error; after it, requests may follow."""
        self._expect(State.WORKING)
        self._state = State.READY
        return self._error_frame(message, status)

    def _error_frame(self, message: str, status: int) -> bytes:
        return error_frame(message, status if self.minor >= guix.STATUS_SINCE else 0)

    def send_chunk(self, data: bytes) -> bytes:
        """Send a piece of a stream to the client."""
        self._expect(State.WORKING)
        parts = [_WRITE]
        write_string(data, parts)
        return b"".join(parts)

    # What follows a request

    def begin_body(self) -> bytes:
        """Give what is already received of a body; the driver reads the rest itself."""
        self._expect(State.WORKING)
        self._state = State.BODY
        return self._buffer.take_rest()

    def end_body(self, rest: bytes) -> None:
        """Take back what was received beyond the body."""
        self._expect(State.BODY)
        self._state = State.WORKING
        if rest:
            self._buffer.receive_data(rest)

    def pull(self, length: int) -> bytes:
        """Ask the client for at most `length` bytes of a stream."""
        self._expect(State.WORKING)
        self._state = State.BODY
        return U64.pack(guix.READ) + U64.pack(length)

    def next_chunk(self, length: int) -> bytes | None:
        """Take the answer to `pull`, or None until all of it is received.

        Raises:
            RemoteError: It is longer than was asked for.
        """
        self._expect(State.BODY)
        chunk: Any = self._buffer.take(_CHUNK)
        if chunk is None:
            return None
        if len(chunk.data) > length:
            raise RemoteError(f"{len(chunk.data)} bytes instead of at most {length}")
        self._state = State.WORKING
        return bytes(chunk.data)

    def close(self) -> None:
        """Note that nothing more is received or sent, and drop what is not taken yet."""
        self._state = State.CLOSED
        self._buffer = ReceiveBuffer()

    def _expect(self, state: State) -> None:
        if self._state is not state:
            raise LocalError(f"the connection is {self._state.name}, not {state.name}")


def error_frame(message: str, status: int) -> bytes:
    """Make an ERROR; a status of 0 is left out, as old clients expect."""
    parts = [U64.pack(guix.ERROR)]
    write_string(message.encode("utf-8", "surrogateescape"), parts)
    if status:
        parts.append(U64.pack(status))
    return b"".join(parts)
