# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that keeps what a builder printed, compressed, where Guix's clients look for it.

The place is ``LOGS/drvs/XX/REST.gz``, with XX the first two characters of the
derivation's file name; ``.bz2`` or no suffix for the other forms. Output is
gathered and compressed in pieces, in a thread, so that a chatty builder does
not hold up the event loop; a builder that prints little costs no thread.
"""

import bz2
import os
import zlib
from typing import Protocol

import trio

from builder.options import LogCompression
from store.paths import StorePath

PIECE = 32 * 1024
"""Bytes of output gathered before they are compressed; what the C++ daemon's zlib buffers too."""

SUFFIXES = {LogCompression.GZIP: ".gz", LogCompression.BZIP2: ".bz2", LogCompression.NONE: ""}

GZIP_FORMAT = 31
"""The window bits that make zlib write a gzip header and trailer."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    """No compression, in the form of a compressor."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def log_file_name(logs: str, drv: StorePath, compression: LogCompression) -> str:
    """Return the path of a derivation's log under the log directory `logs`."""
    base = drv.rpartition("/")[2]
    return f"{logs}/drvs/{base[:2]}/{base[2:]}{SUFFIXES[compression]}"


def find_log(logs: str, drv: StorePath) -> str | None:
    """Return the path of an existing log of a derivation, or None."""
    names = [log_file_name(logs, drv, each) for each in LogCompression]
    return next((name for name in names if os.path.exists(name)), None)


def _new_compressor(compression: LogCompression) -> _Compressor:
    match compression:
        case LogCompression.GZIP:
            return zlib.compressobj(9, zlib.DEFLATED, GZIP_FORMAT)
        case LogCompression.BZIP2:
            return bz2.BZ2Compressor(9)
        case LogCompression.NONE:
            return _Plain()


class LogFile:
    """A log that is being written; make one with `create`, end it with `close`."""

    def __init__(self, path: str, fd: int, compression: LogCompression) -> None:
        self.path = path
        self.size = 0
        self._fd = fd
        self._compressor = _new_compressor(compression)
        self._gathered = bytearray()

    @classmethod
    def create(cls, logs: str, drv: StorePath, compression: LogCompression) -> "LogFile":
        """Create the log of a derivation in place of an earlier one.

        Raises:
            OSError: The file cannot be created.
        """
        path = log_file_name(logs, drv, compression)
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            fd = os.open(path, flags, 0o644)
        return cls(path, fd, compression)

    async def write(self, data: bytes) -> None:
        """Add what the builder printed."""
        self.size += len(data)
        self._gathered += data
        if len(self._gathered) >= PIECE:
            await trio.to_thread.run_sync(self._write_out)

    async def close(self) -> None:
        """Write what is left; the file is complete afterwards, also when this is cancelled."""
        if self._fd < 0:
            return
        with trio.CancelScope(shield=True):
            if len(self._gathered) > PIECE // 8:
                await trio.to_thread.run_sync(self._finish)
            else:
                self._finish()

    def _write_out(self) -> None:
        compressed = self._compressor.compress(bytes(self._gathered))
        self._gathered.clear()
        self._write_all(compressed)

    def _finish(self) -> None:
        fd, self._fd = self._fd, -1
        rest = self._compressor.compress(bytes(self._gathered)) + self._compressor.flush()
        self._gathered.clear()
        try:
            _write_fully(fd, rest)
        finally:
            os.close(fd)

    def _write_all(self, data: bytes) -> None:
        _write_fully(self._fd, data)


def _write_fully(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
