# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark asks of a daemon, whoever wrote it.

Requests whose time counts in microseconds are prepared beforehand, and asked for
through `Line`, which does nothing but write and read bytes: otherwise a client in
Python would be half of what is measured. Both dialects spell these requests alike.
"""

import select
import socket
import struct
from collections.abc import Iterable
from typing import Protocol, Self

from store.paths import StoreDirectory

LAST = struct.pack("<Q", 0x616C7473)

ERROR = struct.pack("<Q", 0x63787470)

# How long the kernel lets a read wait. Python's own timeout would cost a system call more a read.
PATIENCE = struct.pack("ll", 60, 0)

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


class Line:
    """A connection after its handshake, on which only prepared bytes travel."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, request: bytes, size: int) -> bytes:
        """Send a request, and return the reply, which has this size.

        Raises:
            RuntimeError: The daemon said something else, such as an error.
        """
        self.socket.sendall(request)
        data = self.socket.recv(65536)
        while len(data) < size:
            more = self.socket.recv(65536)
            if not more:
                raise RuntimeError(f"the daemon hung up after {data!r}")
            data += more
        if len(data) != size or data.startswith(ERROR):
            raise RuntimeError(f"not the reply that was expected: {data[:1000]!r}")
        return data

    def learn(self, request: bytes) -> bytes:
        """Send a request whose reply's size is not known, and return the reply."""
        self.socket.sendall(request)
        data = self.socket.recv(65536)
        while select.select([self.socket], [], [], 0.2)[0]:
            data += self.socket.recv(65536)
        return data


class Driver(Protocol):
    """A client of one daemon, with a connection for what is no prepared request.

    Attributes:
        store: The daemon's store.
        pid: The daemon's first process.
        asks_references: The request whose reply tells an item's references.
    """

    store: StoreDirectory
    pid: int
    asks_references: int

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

    def collect_garbage(self) -> int:
        """Delete all that is dead; tell how many items that was."""
        ...
