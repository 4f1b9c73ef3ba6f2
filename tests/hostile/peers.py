# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers that send any bytes: they know the dialects' outlines and respect none of them."""

import contextlib
import socket
import struct
from types import TracebackType
from typing import Any, Self

import cbor2

CLIENT_MAGIC = 0x6E697863
LAST = 0x616C7473
ERROR = 0x63787470
NEXT = 0x6F6C6D67


def u64(*numbers: int) -> bytes:
    """Write integers as the Guix dialect does."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def string(data: bytes | str) -> bytes:
    """Write a string as the Guix dialect and archives do."""
    data = data.encode() if isinstance(data, str) else data
    return u64(len(data)) + data + bytes(-len(data) % 8)


def strings(*texts: bytes | str) -> bytes:
    """Write strings one after the other, without their count."""
    return b"".join(map(string, texts))


class Peer:
    """A connected socket.

    Args:
        sock: Closed at the end of the context.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes, as far as the daemon still takes them."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def finish_sending(self) -> None:
        """Say that nothing more will come."""
        with contextlib.suppress(OSError):  # the daemon has hung up
            self.sock.shutdown(socket.SHUT_WR)

    def receive(self, size: int) -> bytes:
        """Receive exactly so many bytes; fewer only at the end of the connection."""
        data = bytearray()
        while len(data) < size and (piece := self.sock.recv(size - len(data))):
            data += piece
        return bytes(data)

    def rest(self) -> bytes:
        """Receive all there is until the daemon hangs up."""
        data = bytearray()
        while piece := self.sock.recv(1 << 16):
            data += piece
        return bytes(data)


class RawGuix(Peer):
    """A Guix client as far as the handshake, and anything after it."""

    def greet(self, version: int = 0x164) -> None:
        """Shake hands as a client of a version does."""
        minor = version & 0xFF
        hello = (u64(0) if minor >= 14 else b"") + (u64(1) if minor >= 11 else b"")
        self.sock.sendall(u64(CLIENT_MAGIC, version) + hello)
        assert self.receive(24) == u64(0x6478696F, 0x164, LAST)

    def number(self) -> int:
        """Receive an integer."""
        data = self.receive(8)
        assert len(data) == 8, f"the daemon hung up: {data!r}"
        return int.from_bytes(data, "little")

    def error(self) -> str:
        """Receive an ERROR; what is shown before it is skipped."""
        text = self.outcome()
        assert text, "it was done"
        return text

    def outcome(self) -> str:
        """Receive the end of a request that has no result; give the error, if it is one."""
        while (tag := self.number()) == NEXT:
            self._text()
        if tag == LAST:
            return ""
        assert tag == ERROR, hex(tag)
        text = self._text()
        assert self.number() == 1
        return text

    def _text(self) -> str:
        size = self.number()
        return self.receive(size + -size % 8)[:size].decode("utf-8", "backslashreplace")

    def is_served(self, item: str) -> bool:
        """Ask whether an item is valid, on the same connection."""
        self.sock.sendall(u64(1) + string(item))
        return [self.number(), self.number()] == [LAST, 1]

    def is_closed(self) -> bool:
        """Tell whether the daemon hangs up without another word."""
        self.finish_sending()
        return self.rest() == b""


class RawNative(Peer):
    """A native client as far as the hello, and anything after it."""

    def greet(self) -> None:
        """Exchange hellos."""
        self.tell(type="hello", versions=[1, 1])
        hello = self.message()
        assert hello is not None
        assert hello["type"] == "hello"

    def tell(self, **fields: Any) -> None:
        """Send a message of any fields."""
        self.frame(cbor2.dumps(fields))

    def frame(self, body: bytes) -> None:
        """Send a frame of any content."""
        self.send(struct.pack(">I", len(body)) + body)

    def message(self) -> dict[str, Any] | None:
        """Receive a message; None at the end of the connection."""
        prefix = self.receive(4)
        if not prefix:
            return None
        body = cbor2.loads(self.receive(int.from_bytes(prefix, "big")))
        assert isinstance(body, dict)
        return body

    def fault(self) -> dict[str, Any]:
        """Receive the fault that ends the connection."""
        found = self.message()
        assert found is not None
        assert found["type"] == "fault", found
        self.finish_sending()
        assert self.message() is None
        return found

    def answer(self, number: int) -> dict[str, Any]:
        """Receive up to a request's answer."""
        while (found := self.message()) is not None:
            if found.get("id") == number and found["type"] in {"reply", "error"}:
                return found
        raise AssertionError("the daemon hung up")
