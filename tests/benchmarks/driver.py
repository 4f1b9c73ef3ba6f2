# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark asks of a daemon, whoever wrote it.

Requests whose time counts in microseconds are prepared beforehand, and asked for
through `Line`, which does nothing but write and read bytes: otherwise a client in
Python would be half of what is measured. Both dialects spell these requests alike.
"""

import socket
import struct
from collections.abc import Iterable
from typing import Protocol, Self

from store.paths import StoreDirectory

LAST = struct.pack("<Q", 0x616C7473)

IS_VALID_PATH, QUERY_REFERENCES, ADD_TEXT, BUILD_PATHS, QUERY_PATH_INFO = 1, 5, 8, 9, 26


def integer(value: int) -> bytes:
    """Write an integer."""
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    """Write a string."""
    data = text if isinstance(text, bytes) else text.encode()
    return integer(len(data)) + data + bytes(-len(data) % 8)


def strings(texts: Iterable[str]) -> bytes:
    """Write a list of strings."""
    written = [string(text) for text in texts]
    return b"".join((integer(len(written)), *written))


def path_request(operation: int, path: str) -> bytes:
    """Write a request that names one path and nothing else."""
    return integer(operation) + string(path)


def text_request(name: str, text: bytes, references: Iterable[str] = ()) -> bytes:
    """Write a request to add a text."""
    return integer(ADD_TEXT) + string(name) + string(text) + strings(references)


def truth_reply(value: int) -> bytes:
    """Write what answers a question of yes or no."""
    return LAST + integer(value)


def strings_reply(texts: Iterable[str]) -> bytes:
    """Write what answers with a list."""
    return LAST + strings(texts)


class Line:
    """A connection after its handshake, on which only prepared bytes travel."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, request: bytes, size: int) -> bytes:
        """Send a request, and return its reply, which has this size.

        Raises:
            RuntimeError: The daemon said something else, such as an error.
        """
        self.socket.sendall(request)
        return self.receive(size)

    def receive(self, size: int) -> bytes:
        """Return the next reply, which has this size."""
        data = self.socket.recv(65536)
        while len(data) < size:
            more = self.socket.recv(65536)
            if not more:
                raise RuntimeError(f"the daemon hung up after {data!r}")
            data += more
        if len(data) != size or not data.startswith(LAST):
            raise RuntimeError(f"not the reply that was expected: {data[:1000]!r}")
        return data

    def learn(self, request: bytes) -> bytes:
        """Send a request whose reply's size is not known, and return the reply."""
        self.socket.sendall(request)
        data = self.socket.recv(65536)
        self.socket.settimeout(0.2)
        try:
            while more := self.socket.recv(65536):
                data += more
        except TimeoutError:
            pass  # it has said all
        finally:
            self.socket.settimeout(None)
        return data


class Driver(Protocol):
    """A client of one daemon, with a connection for what is no prepared request.

    Attributes:
        store: The daemon's store.
        pid: The daemon's first process.
    """

    store: StoreDirectory
    pid: int

    def line(self) -> Line:
        """Open a connection and do the handshake."""
        ...

    def add_text(self, name: str, text: bytes, references: Iterable[str] = ()) -> str:
        """Add a text; give its path."""
        ...

    def add_file(self, name: str, data: bytes | bytearray, *, executable: bool = False) -> str:
        """Add a file by the sha256 of its archive; give its path."""
        ...

    def add_flat(self, name: str, data: bytes | bytearray) -> str:
        """Add a file by its own sha256; give its path."""
        ...

    def add_archive(self, name: str, archive: Iterable[bytes | memoryview]) -> str:
        """Add what an archive holds by the archive's sha256; give its path."""
        ...

    def build(self, paths: Iterable[str]) -> bytes:
        """Build derivations; give what their builders wrote."""
        ...

    def build_request(self, path: str) -> bytes:
        """Write a request to build one derivation."""
        ...
