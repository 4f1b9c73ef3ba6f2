# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a tree on disk from an archive's events.

Everything is made through directory descriptors, one name at a time, and only
where nothing was before; no link is ever followed. Each thing gets its final
metadata as it is completed: mode 0444 or 0555, time of modification 1, no other
bit, the owner that the process has. Enter through `Restorer`, or `restore` where
the archive's bytes are at hand.
"""

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from store.errors import FileError, NarError
from store.nar.events import Content, Directory, NarEvent, Regular, Symlink
from store.nar.reader import DEFAULT_LIMITS, NarLimits, NarReader

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SECOND: Final = 1_000_000_000
_TIMES: Final = (_SECOND, _SECOND)


class Restorer:
    """Makes what the events of one archive describe.

    The events must be those of a `NarReader`, which has checked names and order.
    Use it as a context manager, or call `close`. After an error, or if it is
    closed before it is `finished`, the caller removes what is there under the name.

    Args:
        dirfd: The directory to make it in; not taken over.
        name: What to call it there, a single component. Nothing may have that name yet.
    """

    __slots__ = (
        "_directories",
        "_dirfd",
        "_file",
        "_mode",
        "_name",
        "_remaining",
        "_root",
        "finished",
    )

    def __init__(self, dirfd: int, name: str | bytes) -> None:
        root = os.fsencode(name)
        assert root not in {b"", b".", b".."}
        assert b"/" not in root
        self._dirfd = dirfd
        self._root = self._name = root
        self._directories: list[tuple[int, bytes]] = []
        self._file = -1
        self._mode = 0
        self._remaining = 0
        #: Whether the whole archive is on disk.
        self.finished = False

    def apply(self, events: Iterable[NarEvent]) -> None:
        """Make what some more events describe.

        Raises:
            FileError: The system refuses; the message names the file and the reason.
        """
        try:
            for event in events:
                self._apply(event)
        except OSError as error:
            raise FileError(f"cannot make `{self._path}': {error.strerror}") from error

    def close(self) -> None:
        """Close all descriptors; does no harm a second time."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        while self._directories:
            os.close(self._directories.pop()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _path(self) -> str:
        names = [name for _, name in self._directories]
        return os.fsdecode(b"/".join([*names, self._name]))

    @property
    def _parent(self) -> int:
        return self._directories[-1][0] if self._directories else self._dirfd

    def _apply(self, event: NarEvent) -> None:
        if isinstance(event, Content):
            self._write(event.data)
        elif isinstance(event, Regular):
            self._begin_file(event)
        elif isinstance(event, Symlink):
            self._make_link(event)
        elif isinstance(event, Directory):
            self._enter(event)
        else:
            self._leave()

    def _begin_file(self, event: Regular) -> None:
        self._name = event.name or self._root
        self._mode = 0o555 if event.executable else 0o444
        # Nothing is allocated beforehand: the size is only a claim until the bytes came.
        self._remaining = event.size
        self._file = os.open(self._name, _CREATE, self._mode, dir_fd=self._parent)
        if not event.size:
            self._finish_file()

    def _write(self, data: memoryview) -> None:
        self._remaining -= len(data)
        while data:
            data = data[os.write(self._file, data) :]
        if not self._remaining:
            self._finish_file()

    def _finish_file(self) -> None:
        _seal(self._file, self._mode)
        os.close(self._file)
        self._file = -1
        self._complete_node()

    def _make_link(self, event: Symlink) -> None:
        self._name = event.name or self._root
        os.symlink(event.target, self._name, dir_fd=self._parent)
        os.utime(self._name, ns=_TIMES, dir_fd=self._parent, follow_symlinks=False)
        self._complete_node()

    def _enter(self, event: Directory) -> None:
        self._name = event.name or self._root
        os.mkdir(self._name, 0o700, dir_fd=self._parent)
        fd = os.open(self._name, _OPEN_DIRECTORY, dir_fd=self._parent)
        self._directories.append((fd, self._name))

    def _leave(self) -> None:
        fd, self._name = self._directories.pop()
        try:
            _seal(fd, 0o555)
        finally:
            os.close(fd)
        self._complete_node()

    def _complete_node(self) -> None:
        self.finished = not self._directories


def restore(
    pieces: Iterable[bytes | bytearray | memoryview],
    dirfd: int,
    name: str | bytes,
    limits: NarLimits = DEFAULT_LIMITS,
) -> int:
    """Make a tree from the bytes of its archive.

    Args:
        pieces: The archive and nothing else, cut anywhere.
        dirfd: The directory to make it in.
        name: What to call it there, a single component.
        limits: How large the archive's parts may be.

    Returns:
        The archive's size in bytes.

    Raises:
        NarError: The archive is not canonical, exceeds a limit, or something follows it.
        FileError: The system refuses.
    """
    reader = NarReader(limits)
    with Restorer(dirfd, name) as restorer:
        for piece in pieces:
            restorer.apply(reader.feed(piece))
            if reader.excess:
                raise NarError(f"bad archive: something follows its end (byte {reader.consumed})")
    reader.end()
    return reader.consumed


def _seal(fd: int, mode: int) -> None:
    # The mode given at creation was cut by the process's umask.
    os.fchmod(fd, mode)
    os.utime(fd, ns=_TIMES)
