# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the logs of builds, those that are being written included."""

import bz2
import contextlib
import os
import zlib
from collections.abc import AsyncIterator, Generator
from typing import Protocol

import trio

from builder.logfile import GZIP_FORMAT, find_log
from store.errors import StoreError
from store.paths import StorePath, is_derivation
from storedaemon.services import Services
from storedaemon.session import Session

PIECE = 32 * 1024
"""Bytes of log that are given at once, however well they were compressed."""


class _Decompressor(Protocol):
    def decompress(self, data: bytes, limit: int, /) -> bytes:
        """Take more of the file, and give more of the log: none once all that came is given."""


class _Gzip:
    """A gzip file; one that is still being written ends where its writer is."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(GZIP_FORMAT)

    def decompress(self, data: bytes, limit: int, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, limit)


class _Bzip2:
    """A bzip2 file: streams in a row, the last of which may still be being written."""

    def __init__(self) -> None:
        self._inner = bz2.BZ2Decompressor()

    def decompress(self, data: bytes, limit: int, /) -> bytes:
        if self._inner.eof:
            data = self._inner.unused_data + data
            if not data:
                return b""
            self._inner = bz2.BZ2Decompressor()
        return self._inner.decompress(data, limit)


class _Plain:
    def decompress(self, data: bytes, _limit: int, /) -> bytes:
        return data


class LogReader:
    """A log that is being read, in pieces; every read happens in a thread.

    Args:
        name: The log's file.
        fd: The file, opened; closed by `close`.
    """

    def __init__(self, name: str, fd: int) -> None:
        self._fd = fd
        self._pieces = _decompress(fd, name)

    async def next_piece(self) -> bytes:
        """Give the next piece; none at the end."""
        return await trio.to_thread.run_sync(next, self._pieces, b"")

    def close(self) -> None:
        """Close the file."""
        self._pieces.close()
        os.close(self._fd)


@contextlib.asynccontextmanager
async def open_log(services: Services, _session: Session, path: str) -> AsyncIterator[LogReader]:
    """Open the log of a derivation's last build, decompressed.

    Args:
        services: The daemon's.
        path: A derivation, or an item whose deriver is known.

    Raises:
        InvalidPathError: The path is not in the store.
        NotValidError: It is neither a derivation nor a registered item.
        StoreError: There is no log (reason ``no-log``), or it is damaged.
    """
    drv = _derivation(services, services.directory.parse(path))
    name = await trio.to_thread.run_sync(find_log, services.layout.logs, drv)
    if name is None:
        raise StoreError(f"there is no log of a build of `{drv}'", reason="no-log")
    fd = await trio.to_thread.run_sync(os.open, name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    reader = LogReader(name, fd)
    try:
        yield reader
    finally:
        reader.close()


def _derivation(services: Services, path: StorePath) -> StorePath:
    if is_derivation(path):
        return path
    deriver = services.database.deriver(path)
    if deriver is None:
        raise StoreError(f"nobody knows which derivation made `{path}'", reason="no-log")
    return deriver


def _decompress(fd: int, name: str) -> Generator[bytes]:
    decompressor = _decompressor(name)
    try:
        while data := os.read(fd, PIECE):
            while piece := decompressor.decompress(data, PIECE):
                yield piece
                data = b""
    except (zlib.error, OSError, ValueError) as error:
        raise StoreError(f"the log '{name}' is damaged: {error}", reason="no-log") from error


def _decompressor(name: str) -> _Decompressor:
    if name.endswith(".gz"):
        return _Gzip()
    return _Bzip2() if name.endswith(".bz2") else _Plain()
