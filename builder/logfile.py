# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that keeps what a builder printed, compressed, where Guix's clients look for it.

The place is ``LOGS/drvs/XX/REST.gz``, with XX the first two characters of the
derivation's file name; ``.bz2`` or no suffix for the other forms. Output is
gathered and compressed in pieces, in a thread, so that a chatty builder does
not hold up the event loop; a builder that is done soon costs no thread. A second
after something was printed, whoever reads the file can see it.
Entry points: `LogFiles`, `find_log`.
"""

import bz2
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from builder.options import LogCompression
from store.paths import StorePath

PIECE = 32 * 1024
"""Bytes of output gathered before they are compressed; what the C++ daemon's zlib buffers too."""

SYNC_SECONDS = 1.0
"""How long output may be gathered before readers of the file see it."""

SUFFIXES = {LogCompression.GZIP: ".gz", LogCompression.BZIP2: ".bz2", LogCompression.NONE: ""}

GZIP_FORMAT = 31
"""The window bits that make zlib write a gzip header and trailer."""


class _Form(Protocol):
    """A form of log files: how output becomes the octets of the file."""

    def compress(self, data: bytes, /) -> bytes:
        """Take output; give what is to be written by now."""

    def sync(self) -> bytes:
        """Give what lets a reader have all that was taken; more may follow."""

    def end(self) -> bytes:
        """Give the end of the file."""


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.compressobj(9, zlib.DEFLATED, GZIP_FORMAT)

    def compress(self, data: bytes, /) -> bytes:
        return self._inner.compress(data)

    def sync(self) -> bytes:
        return self._inner.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._inner.flush()


class _Bzip2:
    """A stream can only be ended; readers take several in a row for one."""

    def __init__(self) -> None:
        self._inner: bz2.BZ2Compressor | None = bz2.BZ2Compressor(9)

    def compress(self, data: bytes, /) -> bytes:
        if self._inner is None and data:
            self._inner = bz2.BZ2Compressor(9)
        return self._inner.compress(data) if self._inner else b""

    def sync(self) -> bytes:
        inner, self._inner = self._inner, None
        return inner.flush() if inner else b""

    def end(self) -> bytes:
        return self.sync()


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def sync(self) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


_FORMS: Mapping[LogCompression, Callable[[], _Form]] = {
    LogCompression.GZIP: _Gzip,
    LogCompression.BZIP2: _Bzip2,
    LogCompression.NONE: _Plain,
}

_EMPTY: Mapping[LogCompression, bytes] = {each: form().end() for each, form in _FORMS.items()}
"""The file of a builder that prints nothing: it costs no compressor, which takes 256 KiB."""


def log_file_name(logs: str, drv: StorePath, compression: LogCompression) -> str:
    """Return the path of a derivation's log under the log directory `logs`."""
    base = drv.rpartition("/")[2]
    return f"{logs}/drvs/{base[:2]}/{base[2:]}{SUFFIXES[compression]}"


def attempt_log_name(name: str, attempt: int) -> str:
    """Return where the log of an earlier attempt lies, beside that of the last one."""
    base, dot, suffix = name.rpartition(".drv")
    return f"{base}{dot}.attempt-{attempt}{suffix}"


def set_aside(name: str, attempt: int) -> str:
    """Move the log of an attempt out of the way of the next one's; return its new name.

    Raises:
        OSError: It cannot be renamed.
    """
    aside = attempt_log_name(name, attempt)
    os.rename(name, aside)
    return aside


def find_log(logs: str, drv: StorePath) -> str | None:
    """Return the path of an existing log of a derivation, or None."""
    names = [log_file_name(logs, drv, each) for each in LogCompression]
    return next((name for name in names if os.path.exists(name)), None)


class LogFile:
    """A log that is being written; made by `LogFiles.create`, ended by `close`."""

    def __init__(
        self, path: str, fd: int, compression: LogCompression, note: Callable[["LogFile"], None]
    ) -> None:
        self.path = path
        self.size = 0
        self._fd = fd
        self._compression = compression
        self._form: _Form | None = None
        self._gathered = bytearray()
        self._synced = True
        self._note = note
        self._busy = trio.Lock()
        self._grown = trio.lowlevel.ParkingLot()
        self._error: OSError | None = None

    @property
    def closed(self) -> bool:
        """Whether the file is complete."""
        return self._fd < 0

    async def beyond(self, size: int) -> None:
        """Wait until there is more than `size` bytes of output, or the file is complete.

        What there is can be read from the file after `sync`.
        """
        while self.size <= size and not self.closed:
            await self._grown.park()

    async def write(self, data: bytes) -> None:
        """Add what the builder printed.

        Raises:
            OSError: It cannot be written.
        """
        self._refuse_after_error()
        self.size += len(data)
        self._gathered += data
        self._grown.unpark_all()
        if self._synced and data:
            self._synced = False
            self._note(self)
        if len(self._gathered) >= PIECE:
            async with self._busy:
                await trio.to_thread.run_sync(self._write, self._take())

    async def sync(self) -> None:
        """Let readers of the file have all that was written so far.

        An error is raised by what is done next to the log, which is its build's.
        """
        async with self._busy:
            if self._fd >= 0 and not self._synced:
                self._synced = True
                try:
                    await trio.to_thread.run_sync(self._write_visibly, self._take())
                except OSError as error:
                    self._error = error

    async def close(self) -> None:
        """Write what is left; the file is complete afterwards, also when this is cancelled.

        Raises:
            OSError: It cannot be written.
        """
        if self._fd < 0:
            return
        try:
            if self._busy.locked() or len(self._gathered) > PIECE // 8:
                await self._finish_in_thread()
            else:
                self._finish()
        finally:
            self._grown.unpark_all()
        self._refuse_after_error()

    async def _finish_in_thread(self) -> None:
        with trio.CancelScope(shield=True):
            async with self._busy:
                if self._fd >= 0:
                    await trio.to_thread.run_sync(self._finish)

    def _refuse_after_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _take(self) -> bytes:
        data = bytes(self._gathered)
        self._gathered.clear()
        return data

    def _begun(self) -> _Form:
        if self._form is None:
            self._form = _FORMS[self._compression]()
        return self._form

    def _write(self, data: bytes) -> None:
        _write_fully(self._fd, self._begun().compress(data))

    def _write_visibly(self, data: bytes) -> None:
        form = self._begun()
        _write_fully(self._fd, form.compress(data) + form.sync())

    def _rest(self) -> bytes:
        if not self.size:
            return _EMPTY[self._compression]
        form = self._begun()
        return form.compress(self._take()) + form.end()

    def _finish(self) -> None:
        fd, self._fd = self._fd, -1
        try:
            _write_fully(fd, self._rest())
        finally:
            os.close(fd)


class LogFiles:
    """The logs of this daemon's builds.

    Args:
        logs: The log directory.
        compression: Their form.
        keep: Whether there are any, unless somebody wishes otherwise.
    """

    def __init__(self, logs: str, compression: LogCompression, *, keep: bool = True) -> None:
        self._logs = logs
        self._compression = compression
        self._keep = keep
        self._unsynced: set[LogFile] = set()
        self._open: dict[str, LogFile] = {}
        self._written = trio.Event()

    async def run(self) -> None:
        """Let readers have what builders print, within a second, until cancelled."""
        while True:
            await self._written.wait()
            await trio.sleep(SYNC_SECONDS)
            self._written = trio.Event()
            logs, self._unsynced = self._unsynced, set()
            for log in logs:
                await log.sync()

    def create_wished(self, drv: StorePath, *, wish: bool | None) -> LogFile | None:
        """Create a log if it is wished for, or is kept by default where `wish` is None.

        Raises:
            OSError: The file cannot be created.
        """
        keep = self._keep if wish is None else wish
        return self.create(drv) if keep else None

    def create(self, drv: StorePath) -> LogFile:
        """Create the log of a derivation in place of an earlier one.

        Raises:
            OSError: The file cannot be created.
        """
        path = log_file_name(self._logs, drv, self._compression)
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            fd = os.open(path, flags, 0o644)
        self._open = {name: log for name, log in self._open.items() if not log.closed}
        log = self._open[path] = LogFile(path, fd, self._compression, self._note)
        return log

    def being_written(self, path: str) -> LogFile | None:
        """Return the log that is being written to a path, if one is."""
        log = self._open.get(path)
        return None if log is None or log.closed else log

    def _note(self, log: LogFile) -> None:
        self._unsynced.add(log)
        self._written.set()


def _write_fully(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
