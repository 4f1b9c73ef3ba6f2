# SPDX-License-Identifier: GPL-3.0-or-later
"""A native client of a page, written from docs/protocol.md and sharing no code with the daemon."""

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import pytest

HELLO = {"type": "hello", "versions": [1, 1]}


class PlainClient:
    """Sends maps and receives maps.

    Args:
        sock: Connected to a native socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.next_id = 0

    def send(self, *messages: dict[str, Any]) -> None:
        """Send messages, in one write."""
        bodies = map(cbor2.dumps, messages)
        self.sock.sendall(b"".join(len(body).to_bytes(4, "big") + body for body in bodies))

    def receive(self) -> dict[str, Any] | None:
        """Receive a message; None at the end of the connection."""
        prefix = self._exactly(4)
        if prefix is None:
            return None
        body = self._exactly(int.from_bytes(prefix, "big"))
        assert body is not None, "the daemon closed within a frame"
        return cbor2.loads(body)

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                assert not data, "the daemon closed within a frame"
                return None
            data += part
        return data

    def greet(self, **more: Any) -> dict[str, Any]:
        """Exchange hellos; give the daemon's."""
        self.send({**HELLO, **more})
        hello = self.receive()
        assert hello is not None
        assert hello["type"] == "hello"
        return hello

    def begin(self, method: str, /, **params: Any) -> int:
        """Send a request; give its id."""
        number, self.next_id = self.next_id, self.next_id + 1
        self.send({"type": "request", "id": number, "method": method, "params": params})
        return number

    def finish(self, number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Receive up to the answer of a request; give it, and what came before."""
        before = []
        while (message := self.receive()) is not None:
            if message.get("id") == number and message["type"] in {"reply", "error"}:
                return message, before
            before.append(message)
        raise AssertionError(f"no answer, but {before}")

    def ask(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Ask for something that succeeds; give the result."""
        answer, _ = self.finish(self.begin(method, **params))
        assert answer["type"] == "reply", answer
        return answer["result"]

    def fail(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Ask for something that fails; give the error."""
        answer, _ = self.finish(self.begin(method, **params))
        assert answer["type"] == "error", answer
        return answer

    def add_script(self, name: str, text: str) -> str:
        """Add an executable file."""
        number = self.begin("add", name=name)
        self.send(chunk(number, executable_nar(text.encode())), end(number))
        return self.finish(number)[0]["result"]["path"]


def chunk(number: int, data: bytes) -> dict[str, Any]:
    """Make a part of a body."""
    return {"type": "chunk", "id": number, "data": data}


def end(number: int) -> dict[str, Any]:
    """Make the end of a body."""
    return {"type": "end", "id": number}


def nar_string(data: bytes) -> bytes:
    """Write a string as archives do."""
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)


def executable_nar(content: bytes) -> bytes:
    """Write the archive of an executable file."""
    words = [b"nix-archive-1", b"(", b"type", b"regular", b"executable", b"", b"contents"]
    return b"".join(map(nar_string, [*words, content, b")"]))


def store_path(store: str, kind: str, digest: bytes, name: str) -> str:
    """Compute a store path as the reference documents it."""
    text = f"{kind}:sha256:{digest.hex()}:{store}:{name}"
    folded = bytearray(20)
    for i, byte in enumerate(hashlib.sha256(text.encode()).digest()):
        folded[i % 20] ^= byte
    number = int.from_bytes(folded, "little")
    alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
    digits = "".join(alphabet[(number >> (5 * i)) & 31] for i in reversed(range(32)))
    return f"{store}/{digits}-{name}"


class Tools:
    """What tests of the dialect share."""

    chunk = staticmethod(chunk)
    end = staticmethod(end)
    executable_nar = staticmethod(executable_nar)
    store_path = staticmethod(store_path)


@pytest.fixture
def tools() -> type[Tools]:
    """Helpers that are no fixtures themselves."""
    return Tools


@pytest.fixture
def connect(daemon: Any) -> Iterator[Callable[..., PlainClient]]:
    """Connect plain clients to the daemon; they are closed after the test."""
    clients: list[PlainClient] = []

    def open_one(*, greet: bool = True, **hello: Any) -> PlainClient:
        client = PlainClient(daemon.connect_native())
        clients.append(client)
        if greet:
            client.greet(**hello)
        return client

    yield open_one
    for client in clients:
        client.sock.close()


HOST_DIRECTORIES = ("/usr", "/bin", "/lib", "/lib64")


@pytest.fixture
def building_daemon(start_daemon: Callable[..., Any]) -> Any:
    """A daemon whose builds see this machine's shell."""
    options = [f"--chroot-directory={path}" for path in HOST_DIRECTORIES if os.path.isdir(path)]
    return start_daemon(*options, "--max-jobs=2")


@pytest.fixture
def builder_client(building_daemon: Any) -> Iterator[PlainClient]:
    """A plain client of a daemon that can build."""
    client = PlainClient(building_daemon.connect_native())
    client.greet()
    yield client
    client.sock.close()
