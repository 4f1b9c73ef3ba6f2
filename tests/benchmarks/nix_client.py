# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client of the Nix dialect, as release 2.8 and later speak it (1.34).

Only what the benchmarks ask for. Contents travel in frames, as Nix's own client
sends them; activities and results are skipped, but for what builders wrote.
"""

import socket
import struct
from collections.abc import Iterable

from tests.benchmarks.driver import ADD_TEXT, BUILD_PATHS, LAST, integer, string, strings

VERSION = 0x122

CLIENT_MAGIC, DAEMON_MAGIC = 0x6E697863, 0x6478696F
NEXT, ERROR = 0x6F6C6D67, 0x63787470
START, STOP, RESULT = 0x53545254, 0x53544F50, 0x52534C54
BUILD_LOG_LINE = 101

ADD_TO_STORE, COLLECT_GARBAGE = 7, 20
DELETE_DEAD = 2
END_OF_FRAMES = bytes(8)


class NixError(Exception):
    """The daemon answered with an error."""


class NixClient:
    """A connection to nix-daemon, after its handshake.

    Attributes:
        output: What builders wrote, in lines.
    """

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.output: list[bytes] = []
        self._buffer = bytearray()
        self.socket.connect(address)
        self.socket.sendall(integer(CLIENT_MAGIC))
        assert self.integer() == DAEMON_MAGIC
        version = self.integer()
        if version < VERSION:
            raise NixError(f"this nix-daemon is too old: it speaks {version:#x}")
        # The version, no CPU affinity, no reserved space.
        self.socket.sendall(integer(VERSION) + integer(0) + integer(0))
        self.string()  # the release
        self.drain()

    def integer(self) -> int:
        """Read an integer."""
        value: int = struct.unpack("<Q", self._take(8))[0]
        return value

    def string(self) -> bytes:
        """Read a string."""
        size = self.integer()
        return self._take(size + -size % 8)[:size]

    def strings(self) -> list[bytes]:
        """Read a list of strings."""
        return [self.string() for _ in range(self.integer())]

    def drain(self) -> None:
        """Read until the daemon is done with the request, and its reply follows.

        Raises:
            NixError: It failed.
        """
        while (tag := self.integer()) != int.from_bytes(LAST, "little"):
            if tag == NEXT:
                self.output.append(self.string())
            elif tag == START:
                self._skip_start()
            elif tag == STOP:
                self.integer()
            elif tag == RESULT:
                self._read_result()
            elif tag == ERROR:
                raise NixError(self._error())
            else:
                raise NixError(f"unknown tag {tag:#x}")

    def add_text(self, name: str, text: bytes, references: Iterable[str]) -> str:
        """Add a text; give its path."""
        request = integer(ADD_TEXT) + string(name) + string(text) + strings(references)
        self.socket.sendall(request)
        self.drain()
        return self.string().decode()

    def add(self, name: str, method: str, pieces: Iterable[bytes | memoryview]) -> str:
        """Add contents, an archive or a file as the method says; give the path."""
        head = string(name) + string(method) + strings(()) + integer(0)
        self.socket.sendall(integer(ADD_TO_STORE) + head)
        for piece in pieces:
            if piece:
                self.socket.sendmsg([integer(len(piece))])
                self.socket.sendall(piece)
        self.socket.sendall(END_OF_FRAMES)
        self.drain()
        path = self.string().decode()
        self._skip_info()
        return path

    def build(self, paths: Iterable[str]) -> None:
        """Build derivations."""
        wanted = strings(f"{path}!*" for path in paths)
        self.socket.sendall(integer(BUILD_PATHS) + wanted + integer(0))
        self.drain()
        self.integer()

    def collect_garbage(self) -> int:
        """Delete all that is dead; tell how many items that was."""
        # No path by name, nothing that is alive, no limit, and three obsolete numbers.
        wish = integer(DELETE_DEAD) + strings(()) + integer(0) + integer(2**64 - 1)
        self.socket.sendall(integer(COLLECT_GARBAGE) + wish + 3 * integer(0))
        self.drain()
        deleted = len(self.strings())
        self.integer()  # bytes
        self.integer()
        return deleted

    def _skip_start(self) -> None:
        for _ in range(3):  # id, level, type
            self.integer()
        self.string()
        self._fields()
        self.integer()  # parent

    def _read_result(self) -> None:
        self.integer()
        kind, fields = self.integer(), self._fields()
        if kind == BUILD_LOG_LINE:
            self.output += [line for line in fields if isinstance(line, bytes)]

    def _fields(self) -> list[int | bytes]:
        return [
            self.integer() if self.integer() == 0 else self.string() for _ in range(self.integer())
        ]

    def _error(self) -> str:
        self.string(), self.integer(), self.string()
        message = self.string()
        self.integer()
        for _ in range(self.integer()):
            self.integer()
            self.string()
        return message.decode(errors="backslashreplace")

    def _skip_info(self) -> None:
        """Skip what is known of an item: deriver, hash, references, time, size and more."""
        self.string()
        self.string()
        self.strings()
        for _ in range(3):
            self.integer()
        self.strings()
        self.string()

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                raise NixError("the daemon hung up")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken
