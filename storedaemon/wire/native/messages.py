# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages of the native dialect, and the CBOR maps they travel as.

Every message is a map whose ``type`` is the name in `TYPES`. Keys that a type
does not have are ignored, so that a later version can add some; a key that is
missing, or has another type than it must, is a fault.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from storedaemon.wire.native.cbor import ItemLimits, as_map, decode, encode
from storedaemon.wire.native.faults import FaultError
from storedaemon.wire.native.frames import encode_frame

MAX_ID = 2**53 - 1
"""The largest request id: the largest that every language's numbers hold."""

MAX_WORD = 256
"""Characters of the longest method, feature, reason or event name."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The client's first message.

    Attributes:
        versions: Oldest and newest protocol version that it speaks.
        features: What it wants beyond the version.
        window: Bytes of stream frames a request that the daemon may send ahead of
            credit; 0 for as many as the socket takes.
        client: Its name and version, for the daemon's log.
    """

    versions: tuple[int, int]
    features: frozenset[str] = frozenset()
    window: int = 0
    client: str = ""


@dataclass(frozen=True, slots=True)
class ServerHello:
    """The daemon's first message; `limits` by the names in `docs/protocol.md`."""

    versions: tuple[int, int]
    features: frozenset[str]
    limits: Mapping[str, int]
    daemon: str
    store: str
    system: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A client asks for something; `id` is greater than all before it."""

    id: int
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a request that was served."""

    id: int
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a request that was not served."""

    id: int
    reason: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened while a request is served; `fields` depend on `event`."""

    id: int
    event: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a request's body (from the client) or of its stream (from the daemon)."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The body of a request is complete."""

    id: int


@dataclass(frozen=True, slots=True)
class Credit:
    """The receiver of stream frames has dealt with so many bytes of them."""

    id: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client no longer wants a request served."""

    id: int


@dataclass(frozen=True, slots=True)
class Fault:
    """The daemon's last message on a connection whose client broke the protocol."""

    reason: str
    message: str


Message = (
    ClientHello
    | ServerHello
    | Request
    | Reply
    | Failure
    | Event
    | Chunk
    | End
    | Credit
    | Cancel
    | Fault
)


def _bad(what: str) -> FaultError:
    return FaultError("malformed-message", what)


def _word(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_WORD:
        raise _bad(f"'{key}' must be text of 1 to {MAX_WORD} characters")
    return value


def _text(fields: Mapping[str, Any], key: str, *, default: str | None = None) -> str:
    value = fields.get(key, default)
    if not isinstance(value, str):
        raise _bad(f"'{key}' must be text")
    return value


def _count(fields: Mapping[str, Any], key: str, *, default: int | None = None) -> int:
    value = fields.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_ID:
        raise _bad(f"'{key}' must be a whole number from 0 to {MAX_ID}")
    return value


def _data(fields: Mapping[str, Any], key: str) -> bytes:
    value = fields.get(key)
    if not isinstance(value, bytes):
        raise _bad(f"'{key}' must be a byte string")
    return value


def _map(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = fields.get(key, {})
    if not isinstance(value, dict):
        raise _bad(f"'{key}' must be a map")
    return value


def _words(fields: Mapping[str, Any], key: str) -> frozenset[str]:
    value = fields.get(key, [])
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _bad(f"'{key}' must be a list of text")
    return frozenset(value)


def _versions(fields: Mapping[str, Any]) -> tuple[int, int]:
    match fields.get("versions"):
        case [int(oldest), int(newest)] if 0 < oldest <= newest:
            return oldest, newest
        case _:
            raise _bad("'versions' must be a list of the oldest and the newest version")


def _limits(fields: Mapping[str, Any]) -> Mapping[str, int]:
    limits = _map(fields, "limits")
    return {name: _count(limits, name) for name in limits}


def _client_hello(fields: Mapping[str, Any]) -> ClientHello:
    return ClientHello(
        _versions(fields),
        _words(fields, "features"),
        _count(fields, "window", default=0),
        _text(fields, "client", default=""),
    )


def _server_hello(fields: Mapping[str, Any]) -> ServerHello:
    return ServerHello(
        _versions(fields),
        _words(fields, "features"),
        _limits(fields),
        _text(fields, "daemon"),
        _text(fields, "store"),
        _text(fields, "system"),
        fields.get("trusted") is True,
    )


def _event(fields: Mapping[str, Any]) -> Event:
    rest = {key: value for key, value in fields.items() if key not in {"type", "id", "event"}}
    return Event(_count(fields, "id"), _word(fields, "event"), rest)


def _failure(fields: Mapping[str, Any]) -> Failure:
    return Failure(
        _count(fields, "id"),
        _word(fields, "reason"),
        _text(fields, "message"),
        _map(fields, "details"),
    )


Parser = Callable[[Mapping[str, Any]], Message]

FROM_CLIENT: Mapping[str, Parser] = {
    "hello": _client_hello,
    "request": lambda m: Request(_count(m, "id"), _word(m, "method"), _map(m, "params")),
    "chunk": lambda m: Chunk(_count(m, "id"), _data(m, "data")),
    "end": lambda m: End(_count(m, "id")),
    "credit": lambda m: Credit(_count(m, "id"), _count(m, "bytes")),
    "cancel": lambda m: Cancel(_count(m, "id")),
}

FROM_DAEMON: Mapping[str, Parser] = {
    "hello": _server_hello,
    "reply": lambda m: Reply(_count(m, "id"), _map(m, "result")),
    "error": _failure,
    "event": _event,
    "chunk": FROM_CLIENT["chunk"],
    "credit": FROM_CLIENT["credit"],
    "fault": lambda m: Fault(_word(m, "reason"), _text(m, "message")),
}


def parse_message(body: bytes, parsers: Mapping[str, Parser], limits: ItemLimits) -> Message:
    """Read a frame's body as a message of one of the types in `parsers`.

    Raises:
        FaultError: It is no such message.
    """
    fields = as_map(decode(body, limits))
    kind = _word(fields, "type")
    parser = parsers.get(kind)
    if parser is None:
        raise _bad(f"there is no message of type '{kind}' in this direction")
    return parser(fields)


def encode_message(message: Message) -> bytes:
    """Make the frame of a message, length prefix and all."""
    return encode_frame(encode(_ENCODERS[type(message)](message)))


def _hello_map(message: Any) -> dict[str, Any]:
    fields = {name: getattr(message, name) for name in message.__slots__}
    fields["versions"] = list(message.versions)
    fields["features"] = sorted(message.features)
    return {"type": "hello", **fields}


def _plain(kind: str) -> Callable[[Any], dict[str, Any]]:
    def fields_of(message: Any) -> dict[str, Any]:
        return {"type": kind} | {name: getattr(message, name) for name in message.__slots__}

    return fields_of


_ENCODERS: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    ClientHello: _hello_map,
    ServerHello: _hello_map,
    Request: _plain("request"),
    Reply: _plain("reply"),
    Failure: _plain("error"),
    Event: lambda m: {"type": "event", "id": m.id, "event": m.event, **m.fields},
    Chunk: _plain("chunk"),
    End: _plain("end"),
    Credit: _plain("credit"),
    Cancel: _plain("cancel"),
    Fault: _plain("fault"),
}
