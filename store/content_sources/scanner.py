# SPDX-License-Identifier: GPL-3.0-or-later
"""One thread that goes through one content source, again whenever mounts change.

What was hashed is written down at once, so that the next scan, or daemon, goes on
from there. The thread has the lowest priority for the processor and for disks. A
medium that does not answer holds up nobody but this thread. Entry point: `Scanner`.
"""

import ctypes
import errno
import os
import select
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from store.content_sources.catalogue import Catalogue, Entry
from store.content_sources.hashing import (
    ARCHIVE_OVERHEAD,
    LARGEST,
    Stopped,
    file_stamp,
    hash_file,
    hash_tree,
    opened_path,
    tree_stamp,
)
from store.errors import StoreError
from store.hashes import HashAlgorithm
from store.nar.reader import DEFAULT_LIMITS
from store.syscalls import RESOLVE_WITHIN, openat2

TREE_LEVELS = 2
"""How deep directories lie whose archive form is hashed: each level reads all files once more."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INTERVAL = 600
_SETTLE = 0.2
_LOOK_EVERY = 1.0
_MOST_TREES = 65_536
_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "i686": 289}
_IDLE_CLASS = 3 << 13


class State(StrEnum):
    """What is going on with a source; the words are stable."""

    WAITING = "waiting"
    SCANNING = "scanning"
    IDLE = "idle"
    ABSENT = "absent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A look at a source.

    Attributes:
        path: Its directory.
        state: What is going on.
        files: Files whose hashes are known.
        trees: Directories whose hashes are known.
        hashed: Bytes read by the present scan, or the last one.
        last_scan: When the last complete scan ended, in seconds since 1970; 0 for never.
        seconds: How long that took.
        problem: What went wrong last; empty for nothing.
    """

    path: str
    state: State = State.WAITING
    files: int = 0
    trees: int = 0
    hashed: int = 0
    last_scan: int = 0
    seconds: float = 0.0
    problem: str = ""


class Scanner:
    """Goes through a source.

    Args:
        source: Its directory.
        file: Where the catalogue is.

    Attributes:
        status: A look at it, replaced as a whole.
        dropped: Entries of any source that its thread has dropped since there were too many.
    """

    def __init__(self, source: str, file: str) -> None:
        self.status = SourceStatus(source)
        self.dropped = 0
        self._source = source
        self._file = file
        self._stopped = False
        self._looked = 0.0
        self._scanned: tuple[int, int] | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="content-source", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended; one that hangs on its medium is left to itself."""
        self._thread.join(seconds)
        if not self._thread.is_alive():
            os.close(self._wake)

    def _run(self) -> None:
        _lower_priority()
        mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            catalogue = Catalogue(self._file)
            try:
                while not self._stopped:
                    self._scan(catalogue)
                    self._wait(mounts)
            finally:
                catalogue.close()
        except StoreError as error:
            self.note(state=State.FAILED, problem=error.message)
        finally:
            os.close(mounts)

    def _wait(self, mounts: int) -> None:
        """Wait until something was mounted or unmounted, or some time has passed."""
        poll = select.poll()
        poll.register(mounts, select.POLLPRI)
        poll.register(self._wake, select.POLLIN)
        if poll.poll(_INTERVAL * 1000) and not self._stopped:
            # What is being mounted is often more than one thing.
            alone = select.poll()
            alone.register(self._wake, select.POLLIN)
            alone.poll(int(_SETTLE * 1000))

    def note(self, **changes: object) -> None:
        """Change the look at the source."""
        self.status = replace(self.status, **changes)  # type: ignore[arg-type]

    def should_stop(self) -> bool:
        """Tell whether the daemon ends, or something else lies where the source was."""
        if self._stopped:
            return True
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return False
        self._looked = now
        return _identity(self._source) != self._scanned

    def _scan(self, catalogue: Catalogue) -> None:
        started = time.monotonic()
        try:
            with _root(self._source) as root:
                if root is None:
                    self._count(catalogue, state=State.ABSENT)
                    return
                status = os.fstat(root)
                self._scanned = status.st_dev, status.st_ino
                self._count(catalogue, state=State.SCANNING, hashed=0, problem="")
                _Scan(self, catalogue, root).run()
            self.dropped += catalogue.prune()
        except Stopped:
            return
        except (StoreError, OSError) as error:
            self._count(catalogue, state=State.FAILED, problem=str(error))
            return
        seconds = time.monotonic() - started
        self._count(catalogue, state=State.IDLE, last_scan=int(time.time()), seconds=seconds)

    def _count(self, catalogue: Catalogue, **changes: object) -> None:
        files, trees = catalogue.count(self._source)
        self.note(files=files, trees=trees, **changes)


def _identity(path: str) -> tuple[int, int] | None:
    """Return what a directory is told from others by, as far as it is there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _root(source: str) -> Iterator[int | None]:
    """Open a source; None where nothing is mounted there, or nothing is in it."""
    try:
        fd = os.open(source, _DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOMEDIUM, errno.ENODEV):
            raise
        yield None
        return
    try:
        with os.scandir(fd) as entries:
            empty = next(entries, None) is None
        yield None if empty else fd
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Level:
    fd: int
    path: str
    entries: "os._ScandirIterator[str]"  # scandir has no public type

    def close(self) -> None:
        self.entries.close()
        os.close(self.fd)


class _Scan:
    """One scan: all files, then the directories of the upper levels."""

    def __init__(self, scanner: Scanner, catalogue: Catalogue, root: int) -> None:
        self._scanner = scanner
        self._catalogue = catalogue
        self._root = root
        self._algorithms = catalogue.algorithms_in_use()
        self._levels: list[_Level] = []
        self._trees: list[str] = []

    def run(self) -> None:
        try:
            self._enter(self._root, ".", "")
            while self._levels:
                self._step()
        finally:
            while self._levels:
                self._levels.pop().close()
        for path in self._trees:
            self._tree(path)

    def _step(self) -> None:
        if self._scanner.should_stop():
            raise Stopped
        level, entry = self._levels[-1], None
        with self._tolerating(level.path):
            entry = next(level.entries, None)
        if entry is None:
            self._levels.pop().close()
            return
        path = f"{level.path}/{entry.name}" if level.path else entry.name
        # One bad entry, such as an unreadable sector, spoils nothing else.
        with self._tolerating(path):
            self._entry(level.fd, entry.name, path)

    @contextmanager
    def _tolerating(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOENT):
                self._scanner.note(problem=f"{path}: {error.strerror}")
        except StoreError as error:
            if error.reason == "database":
                raise
            self._scanner.note(problem=f"{path}: {error.message}")

    def _entry(self, dirfd: int, name: str, path: str) -> None:
        with opened_path(dirfd, name) as (fd, status):
            if stat.S_ISREG(status.st_mode):
                self._file(fd, status, path)
            elif stat.S_ISDIR(status.st_mode) and len(self._levels) < DEFAULT_LIMITS.depth:
                if len(self._levels) <= TREE_LEVELS and len(self._trees) < _MOST_TREES:
                    self._trees.append(path)
                self._enter(dirfd, name, path)

    def _enter(self, dirfd: int, name: str, path: str) -> None:
        fd = openat2(dirfd, name, os.O_RDONLY | os.O_DIRECTORY, RESOLVE_WITHIN)
        try:
            self._levels.append(_Level(fd, path, os.scandir(fd)))
        except BaseException:
            os.close(fd)
            raise

    def _file(self, fd: int, status: os.stat_result, path: str) -> None:
        source, stamp = self._scanner.status.path, file_stamp(status)
        if status.st_size > LARGEST or self._catalogue.is_current(
            source, path, stamp, self._algorithms, tree=False
        ):
            return
        found = hash_file(fd, self._algorithms, self._scanner.should_stop)
        if found is not None:
            hashes, size = found
            entry = Entry(0, source, path, size + ARCHIVE_OVERHEAD, stamp)
            self._catalogue.record(entry, hashes, tree=False)
            self._count(size)

    def _count(self, size: int) -> None:
        self._scanner.note(hashed=self._scanner.status.hashed + size)

    def _tree(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        with self._tolerating(path):
            fd = openat2(self._root, above or ".", os.O_RDONLY | os.O_DIRECTORY, RESOLVE_WITHIN)
            try:
                self._hash_tree(fd, name, path)
            finally:
                os.close(fd)

    def _hash_tree(self, fd: int, name: str, path: str) -> None:
        source, stop = self._scanner.status.path, self._scanner.should_stop
        stamp = tree_stamp(fd, name, stop)
        sha256 = [HashAlgorithm.SHA256]
        if not self._catalogue.is_current(source, path, stamp, sha256, tree=True):
            value, size = hash_tree(fd, name, stop)
            if tree_stamp(fd, name, stop) == stamp:
                entry = Entry(0, source, path, size, stamp)
                self._catalogue.record(entry, {HashAlgorithm.SHA256: value}, tree=True)
                self._count(size)


def _lower_priority() -> None:
    """Let everything else go first; of threads, these calls take the kernel's number."""
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, 19)
    call = _SYS_IOPRIO_SET.get(os.uname().machine)
    if call is not None:
        ctypes.CDLL(None).syscall(call, 1, thread, _IDLE_CLASS)
