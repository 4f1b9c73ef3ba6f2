# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's side of one connection in the Guix dialect, without I/O.

It is the counterpart of `storedaemon.wire.session`: `start`, then `next_event`
until `DaemonHello`, `introduce`, `next_event` until `Finished`; from then on
`request`, and `next_event` until `Finished` or `Failed`, with any number of
`LogText`, `DataWanted` and `DataChunk` before.
"""

from dataclasses import dataclass

from storedaemon.wire import guix
from storedaemon.wire.buffer import ReceiveBuffer
from storedaemon.wire.errors import LocalError, RemoteError
from storedaemon.wire.layout import Field, Layout, layout_for
from storedaemon.wire.messages import NoReply, Reply, Request
from storedaemon.wire.primitives import (
    MAX_CHUNK,
    MAX_CONTENTS,
    U32_KIND,
    U64,
    U64_KIND,
    Contents,
    Text,
    write_string,
)

MAX_REPLY = 4 * 1024 * 1024 * 1024
"""Longest reply: all paths of a very large store."""


@dataclass(frozen=True, slots=True)
class DaemonHello:
    """The daemon's version; answer with `introduce`."""

    version: int


@dataclass(frozen=True, slots=True)
class LogText:
    """Bytes to show to the user; builders' output may be no UTF-8."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DataWanted:
    """The daemon wants at most `length` bytes of the stream; answer with `chunk`."""

    length: int


@dataclass(frozen=True, slots=True)
class DataChunk:
    """A piece of the stream that the daemon sends."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The request failed; `status` is 0 where the daemon said none."""

    message: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The request is done."""

    reply: Reply


Event = DaemonHello | LogText | DataWanted | DataChunk | Failed | Finished

_TAGGED: dict[int, tuple[type[Event], tuple[Field, ...]]] = {
    guix.NEXT: (LogText, (Field("data", Contents(MAX_CHUNK)),)),
    guix.READ: (DataWanted, (Field("length", U64_KIND),)),
    guix.WRITE: (DataChunk, (Field("data", Contents(MAX_CHUNK)),)),
    guix.ERROR: (
        Failed,
        (
            Field("message", Text(MAX_CONTENTS)),
            Field("status", U32_KIND, since=guix.STATUS_SINCE),
        ),
    ),
}
_HANDSHAKE = layout_for(0, NoReply, ())


class GuixClientSession:
    """One connection, seen from the client.

    Args:
        version: The version to speak; tests use old ones.
    """

    def __init__(self, version: int = guix.VERSION) -> None:
        self.version = version
        self._buffer = ReceiveBuffer(MAX_REPLY)
        self._operations = guix.operations_by_request(guix.minor(version))
        self._tagged = {
            tag: layout_for(guix.minor(version), *described) for tag, described in _TAGGED.items()
        }
        self._greeted = False
        self._tag: int | None = None
        self._reply: Layout | None = None

    def start(self) -> bytes:
        """Say the first word."""
        return U64.pack(guix.CLIENT_MAGIC)

    def introduce(self, hello: guix.ClientHello | None = None) -> bytes:
        """Say the version and what follows it."""
        parts = [U64.pack(self.version)]
        guix.client_hello(guix.minor(self.version)).write(hello or guix.ClientHello(), parts)
        self._reply = _HANDSHAKE
        return b"".join(parts)

    def request(self, request: Request) -> bytes:
        """Begin a request."""
        if self._reply is not None:
            raise LocalError("the previous request is not finished")
        operation = self._operations[type(request)]
        self._reply = operation.reply
        parts = [U64.pack(operation.code)]
        operation.request.write(request, parts)
        return b"".join(parts)

    def chunk(self, data: bytes) -> bytes:
        """Answer `DataWanted`."""
        parts: list[bytes] = []
        write_string(data, parts)
        return b"".join(parts)

    @property
    def pending(self) -> int:
        """How many received bytes have not been taken yet."""
        return self._buffer.size

    def receive_data(self, data: bytes) -> None:
        """Append bytes from the daemon."""
        self._buffer.receive_data(data)

    def next_event(self) -> Event | None:
        """Take the next event, or None until all of it is received.

        Raises:
            RemoteError: The daemon sent what is no answer.
        """
        if not self._greeted:
            return self._read_greeting()
        if self._reply is None:
            raise LocalError("no request is under way")
        if self._tag is None:
            self._tag = self._buffer.take_code()
            if self._tag is None:
                return None
        return self._read_reply() if self._tag == guix.LAST else self._read_tagged(self._tag)

    def _read_greeting(self) -> DaemonHello | None:
        if self._tag is None:
            self._tag = self._buffer.take_code()
            if self._tag is None:
                return None
            if self._tag != guix.DAEMON_MAGIC:
                raise RemoteError(f"protocol mismatch: the daemon began with {self._tag:#x}")
        version = self._buffer.take_code()
        if version is None:
            return None
        if guix.major(version) != guix.major(guix.VERSION):
            raise RemoteError(f"unsupported protocol version {version:#x}")
        self._greeted, self._tag = True, None
        return DaemonHello(version)

    def _read_reply(self) -> Finished | None:
        assert self._reply is not None
        reply = self._buffer.take(self._reply)
        if reply is None:
            return None
        self._tag, self._reply = None, None
        return Finished(reply)

    def _read_tagged(self, tag: int) -> Event | None:
        layout = self._tagged.get(tag)
        if layout is None:
            raise RemoteError(f"invalid tag {tag:#x}")
        event: Event | None = self._buffer.take(layout)
        if event is None:
            return None
        self._tag = None
        if isinstance(event, Failed):
            self._reply = None
        return event
