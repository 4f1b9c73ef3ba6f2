# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies of additions: what is sent for a file, a directory, or bytes at hand.

Files are read in a thread, a chunk at a time, so that nothing file-sized is ever
in memory and other tasks go on.
"""

import os
import stat
from collections.abc import Iterable, Iterator

import trio

from store.errors import FileError
from store.nar.dump import dump
from store.nar.events import Content, Regular
from store.nar.writer import write
from storedaemon.client.connection import CHUNK_SIZE, Exchange

Piece = bytes | bytearray | memoryview


async def send_body(exchange: Exchange, pieces: Iterable[Piece]) -> None:
    """Send a request's body, from pieces of any size; stops where it is not wanted any more."""
    chunks = _chunks(iter(pieces))
    while (chunk := await trio.to_thread.run_sync(next, chunks, None)) is not None:
        if not await exchange.send_chunk(chunk):
            return
    await exchange.send_end()


def _chunks(pieces: Iterator[Piece]) -> Iterator[bytes]:
    gathered = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        while view:
            taken = min(len(view), CHUNK_SIZE - len(gathered))
            gathered += view[:taken]
            view = view[taken:]
            if len(gathered) == CHUNK_SIZE:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


def nar_of(path: str) -> Iterator[Piece]:
    """Give the NAR form of a file, directory or symbolic link."""
    directory, name = os.path.split(os.path.abspath(path))
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from dump(fd, name)
    finally:
        os.close(fd)


def bytes_of(path: str) -> Iterator[Piece]:
    """Give the bytes of a regular file.

    Raises:
        FileError: It is something else.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileError(f"'{path}' is not a regular file")
        while data := os.read(fd, CHUNK_SIZE):
            yield data
    finally:
        os.close(fd)


def executable_nar(content: bytes) -> Iterator[Piece]:
    """Give the NAR form of an executable file with that content."""
    header = Regular(b"", executable=True, size=len(content))
    yield from write([header, Content(memoryview(content))] if content else [header])
