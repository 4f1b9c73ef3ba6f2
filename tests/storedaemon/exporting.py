# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of exports share: keys, a stub of guix, and streams made by hand."""

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw

from store.signatures import keyring
from store.signatures.gcrypt import Gcrypt
from storedaemon.wire import messages as m
from storedaemon.wire.guix_client import DataChunk, DataWanted, Failed, Finished
from tests.storedaemon.guix_client import GuixClient, RequestFailedError

STUB = Path(__file__).with_name("stub_guix.py")


def number(value: int) -> bytes:
    """Write an integer as the worker protocol does."""
    return value.to_bytes(8, "little")


def string(data: bytes) -> bytes:
    """Write a string as the worker protocol does."""
    return number(len(data)) + data + bytes(-len(data) % 8)


def nar(content: bytes) -> bytes:
    """Write the archive of a file."""
    words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents", content, b")")
    return b"".join(map(string, words))


def signed_part(
    archive: bytes, path: str, references: Sequence[str] = (), deriver: str = ""
) -> bytes:
    """Write what a signature covers."""
    listed = number(len(references)) + b"".join(string(path.encode()) for path in references)
    trailer = number(0x4558494E) + string(path.encode()) + listed + string(deriver.encode())
    return archive + trailer


def item(part: bytes, signature: bytes | None) -> bytes:
    """Write one item of a stream."""
    tail = number(0) if signature is None else number(1) + string(signature)
    return number(1) + part + tail


def digest(part: bytes) -> str:
    """Hash what a signature covers."""
    return hashlib.sha256(part).hexdigest()


def make_keys(configuration: str) -> None:
    """Generate a key pair in Guix's format, accepted as there is no list."""
    keyring.generate(Gcrypt.load(), configuration, None)


def make_stub(configuration: str) -> str:
    """Install the stub of guix with a key of its own; give its file name."""
    os.makedirs(configuration, exist_ok=True)
    Path(f"{configuration}/acl").write_text("me\n")
    Path(f"{configuration}/signing-key.sec").write_text("me secret")
    os.chmod(f"{configuration}/signing-key.sec", 0o400)
    program = Path(f"{configuration}/guix")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {STUB} "$@"\n')
    program.chmod(0o755)
    return str(program)


def collect(daemon: Any, *paths: str) -> None:
    """Make a store forget items that nothing refers to, each after those that refer to it."""
    database = apsw.Connection(f"{daemon.state}/db/db.sqlite")
    database.set_busy_timeout(10_000)
    database.execute("pragma foreign_keys = on")
    for path in paths:
        database.execute("delete from ValidPaths where path = ?", (path,))
        os.unlink(path)
    database.close()


class ExportClient(GuixClient):
    """A Guix client that exports and imports."""

    def export(self, path: str, *, sign: bool = False) -> bytes:
        """Export an item; give the stream of it alone."""
        self.send_only(m.ExportPath(path, sign))
        stream = b""
        while not isinstance(event := self.next_event(), Finished):
            if isinstance(event, Failed):
                raise RequestFailedError(event.message, event.status)
            if isinstance(event, DataChunk):
                stream += event.data
        return stream

    def import_stream(self, stream: bytes, piece: int = 1 << 30) -> tuple[str, ...]:
        """Import a stream, in pieces of at most that size."""
        self.send_only(m.ImportPaths())
        while not isinstance(event := self.next_event(), Finished):
            if isinstance(event, Failed):
                raise RequestFailedError(event.message, event.status)
            if isinstance(event, DataWanted):
                size = min(event.length, piece)
                self.socket.sendall(self._wire.chunk(stream[:size]))
                stream = stream[size:]
        assert isinstance(event.reply, m.TextsReply)
        return event.reply.values


def stream_of(items: Iterable[bytes]) -> bytes:
    """Write a whole stream from what `ExportClient.export` gives."""
    return b"".join(number(1) + each for each in items) + number(0)
