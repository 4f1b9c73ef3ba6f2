# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives our daemon as a Guix client does."""

from collections.abc import Iterable

from store.paths import StoreDirectory
from storedaemon.wire import messages as m
from tests.benchmarks.content import file_archive
from tests.benchmarks.driver import BUILD_PATHS, QUERY_REFERENCES, Line, integer, strings
from tests.storedaemon.guix_client import GuixClient


class GuixDriver:
    """A client of a daemon that speaks the Guix dialect; see `driver.Driver`."""

    asks_references = QUERY_REFERENCES

    def __init__(self, address: str, store: StoreDirectory, pid: int) -> None:
        self.store = store
        self.pid = pid
        self._address = address
        self._client = GuixClient(address).__enter__()

    def close(self) -> None:
        """Hang up."""
        self._client.socket.close()

    def line(self) -> Line:
        """Open a connection and do the handshake."""
        return Line(GuixClient(self._address).__enter__().socket)

    def add_text(self, name: str, text: bytes, references: Iterable[str] = ()) -> str:
        """Add a text; give its path."""
        return self._client.add_text(name, text, tuple(references))

    def add_file(self, name: str, data: bytes | bytearray, *, executable: bool = False) -> str:
        """Add a file by the sha256 of its archive; give its path."""
        return self._client.add_nar(name, file_archive(data, executable=executable))

    def add_flat(self, name: str, data: bytes | bytearray) -> str:
        """Add a file by its own sha256; give its path."""
        return self._client.add_nar(name, file_archive(data), recursive=False)

    def add_archive(self, name: str, archive: Iterable[bytes | memoryview]) -> str:
        """Add what an archive holds by the archive's sha256; give its path."""
        return self._client.add_nar(name, archive)

    def build(self, paths: Iterable[str]) -> bytes:
        """Build derivations; give what their builders wrote."""
        self._client.output.clear()
        self._client.build(*paths)
        return b"".join(self._client.output)

    def build_request(self, path: str) -> bytes:
        """Write a request to build one derivation."""
        return integer(BUILD_PATHS) + strings([path]) + integer(0)

    def collect_garbage(self) -> int:
        """Delete all that is dead; tell how many items that was."""
        wish = m.CollectGarbage(m.GarbageAction.DELETE_DEAD, (), False, 2**64 - 1)
        reply = self._client.call(wish)
        assert isinstance(reply, m.GarbageReply)
        return len(reply.paths)
