# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the logs of builds, those that are being written included."""

import bz2
import contextlib
import os
import zlib
from collections.abc import AsyncIterator, Generator
from typing import Protocol

import trio

from builder.logfile import GZIP_FORMAT, attempt_log_name, find_log, log_file_name
from builder.options import LogCompression
from builder.scheduling.jobs import Job
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
        growing: Whether there may be more to read after the end was reached.
    """

    def __init__(self, name: str, fd: int, *, growing: bool = False) -> None:
        self._fd = fd
        self._pieces = _decompress(fd, name, growing=growing)

    async def next_piece(self) -> bytes:
        """Give the next piece; none at the end, which may be further away later."""
        return await trio.to_thread.run_sync(next, self._pieces, b"")

    def close(self) -> None:
        """Close the file."""
        self._pieces.close()
        os.close(self._fd)


@contextlib.asynccontextmanager
async def open_log(
    services: Services, _session: Session, path: str, attempt: int | None = None
) -> AsyncIterator[LogReader]:
    """Open the log of a derivation's last build, decompressed.

    Args:
        services: The daemon's.
        path: A derivation, or an item whose deriver is known.
        attempt: Which attempt's; None for the last one's.

    Raises:
        InvalidPathError: The path is not in the store.
        NotValidError: It is neither a derivation nor a registered item.
        StoreError: There is no log (reason ``no-log``), or it is damaged.
    """
    drv = derivation_of(services, services.directory.parse(path))
    known = services.history.of_derivation(drv, 1)
    last = attempt is None or (bool(known) and known[0].number == attempt)
    name = await trio.to_thread.run_sync(
        _find, services.layout.logs, drv, None if last else attempt
    )
    if name is None:
        which = "a build" if attempt is None else f"attempt {attempt}"
        raise StoreError(f"there is no log of {which} of `{drv}'", reason="no-log")
    fd = await trio.to_thread.run_sync(os.open, name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    reader = LogReader(name, fd)
    try:
        yield reader
    finally:
        reader.close()


def find_job(services: Services, drv: StorePath) -> Job | None:
    """Return the job that builds a derivation, the one that runs if there are several."""
    jobs = [job for job in services.scheduler.jobs_of(drv) if isinstance(job, Job)]
    return next((job for job in jobs if job.started), jobs[0] if jobs else None)


def _find(logs: str, drv: StorePath, attempt: int | None) -> str | None:
    """Return the file of a log; that of the last attempt, None, has the usual name."""
    if attempt is None:
        return find_log(logs, drv)
    names = [log_file_name(logs, drv, each) for each in LogCompression]
    aside = (attempt_log_name(each, attempt) for each in names)
    return next(filter(os.path.exists, aside), None)


def derivation_of(services: Services, path: StorePath) -> StorePath:
    """Return the derivation that a path is, or that made it.

    Raises:
        NotValidError: It is neither a derivation nor a registered item.
        StoreError: Nobody knows (reason ``no-log``).
    """
    if is_derivation(path):
        return path
    deriver = services.database.deriver(path)
    if deriver is None:
        raise StoreError(f"nobody knows which derivation made `{path}'", reason="no-log")
    return deriver


def _decompress(fd: int, name: str, *, growing: bool = False) -> Generator[bytes]:
    decompressor = _decompressor(name)
    try:
        while (data := os.read(fd, PIECE)) or growing:
            if not data:
                yield b""
                continue
            while piece := decompressor.decompress(data, PIECE):
                yield piece
                data = b""
    except (zlib.error, OSError, ValueError) as error:
        raise StoreError(f"the log '{name}' is damaged: {error}", reason="no-log") from error


def _decompressor(name: str) -> _Decompressor:
    if name.endswith(".gz"):
        return _Gzip()
    return _Bzip2() if name.endswith(".bz2") else _Plain()
