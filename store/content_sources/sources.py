# SPDX-License-Identifier: GPL-3.0-or-later
"""The content sources of a daemon: kept up to date, and asked where content is.

Asking touches no medium. What is found is opened in a thread, with a time limit, and
never through a link or beyond the source. Entry point: `ContentSources`.
"""

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from store.content_sources.catalogue import MOST_ENTRIES, Catalogue, Entry
from store.content_sources.hashing import file_stamp, opened_path
from store.content_sources.scanner import Scanner, SourceStatus, State
from store.errors import DatabaseError, FileError
from store.hashes import Digest, HashAlgorithm
from store.layout import Layout
from store.paths import StorePath
from store.syscalls import RESOLVE_WITHIN, openat2
from store.tally import CacheStatistics, Tally

_OPEN_SECONDS = 30.0
"""How long a medium may take to open a directory: a drive that has to start takes ten."""

_JOIN_SECONDS = 2.0


class ContentSources:
    """All sources; make it with `open`.

    Args:
        scanners: One for each.
        catalogue: For the event loop's thread; None where there is no source.
    """

    def __init__(self, scanners: Sequence[Scanner], catalogue: Catalogue | None) -> None:
        self._scanners = scanners
        self._catalogue = catalogue
        self._tally = Tally()

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: Layout, sources: Iterable[str]) -> AsyncIterator["ContentSources"]:
        """Go through sources for as long as the context lasts.

        Args:
            layout: Of the store.
            sources: Their directories, which need not exist.

        Raises:
            DatabaseError: The catalogue is damaged.
        """
        paths = tuple(dict.fromkeys(sources))
        if not paths:
            yield cls((), None)
            return
        catalogue = Catalogue(layout.index_file)
        scanners = [Scanner(path, layout.index_file) for path in paths]
        try:
            for scanner in scanners:
                scanner.start()
            yield cls(scanners, catalogue)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_end, scanners)
            catalogue.close()

    def status(self) -> list[SourceStatus]:
        """Return a look at each source."""
        return [scanner.status for scanner in self._scanners]

    def find(self, content: Digest, *, recursive: bool) -> Iterator["MediumPlace"]:
        """Yield where content is said to be on sources that are there."""
        if self._catalogue is None or (recursive and content.algorithm != HashAlgorithm.SHA256):
            return
        there = {each.path for each in self.status() if each.state is not State.ABSENT}
        known = self._catalogue.find(content, tree=recursive)
        found = [entry for entry in known if entry.source in there]
        self._tally.looked_up(found=bool(found))
        for entry in found:
            yield MediumPlace(entry, self._catalogue, tree=recursive)

    def statistics(self) -> CacheStatistics:
        """Return how what is known of them does; that is all on disk."""
        self._tally.evictions = sum(scanner.dropped for scanner in self._scanners)
        entries = sum(each.files + each.trees for each in self.status())
        return self._tally.of_entries("content-sources", entries, MOST_ENTRIES)


def _end(scanners: Sequence[Scanner]) -> None:
    for scanner in scanners:
        scanner.stop()
    for scanner in scanners:
        scanner.join(_JOIN_SECONDS)


async def _patiently(open_it: Callable[[], int]) -> int | None:
    """Open something in a thread; None if that takes too long, and nothing is open then."""
    opened: list[int] = []
    given_up = False

    def open_or_close() -> None:
        opened.append(open_it())
        if given_up:
            _close_last(opened)

    try:
        with trio.move_on_after(_OPEN_SECONDS):
            await trio.to_thread.run_sync(open_or_close, abandon_on_cancel=True)
            return opened.pop()
    finally:
        given_up = True
        _close_last(opened)
    return None


def _close_last(fds: list[int]) -> None:
    # Either thread may get here first; taking something off a list is one step.
    with suppress(IndexError):
        os.close(fds.pop())


@dataclass(slots=True)
class MediumPlace:
    """A file or directory of a content source."""

    _entry: Entry
    _catalogue: Catalogue
    tree: bool
    _was_there: bool = True

    @property
    def label(self) -> str:
        """Its path."""
        return f"{self._entry.source}/{self._entry.path}"

    @property
    def size(self) -> int:
        """The bytes of its archive form, or a few more."""
        return self._entry.size

    @property
    def references(self) -> Iterable[StorePath]:
        """Nothing is known of what it refers to."""
        return ()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[int, str]]:
        """Open the directory it is in; its name there comes along.

        Raises:
            FileError: It is not what it was.
            OSError: It is not there.
        """
        self._was_there = False
        fd = await _patiently(self._open)
        if fd is None:
            raise OSError(errno.ETIMEDOUT, "the medium does not answer", self._entry.source)
        try:
            self._was_there = True
            yield fd, self._entry.path.rpartition("/")[2]
        finally:
            os.close(fd)

    def forget(self) -> None:
        """Take note that it is not what it was said to be; what is away may come back."""
        if self._was_there:
            # Kept, it would mislead us once more; no more than that.
            with suppress(DatabaseError):
                self._catalogue.forget(self._entry.number)

    def _open(self) -> int:
        above, _, name = self._entry.path.rpartition("/")
        root = os.open(self._entry.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = openat2(root, above or ".", os.O_RDONLY | os.O_DIRECTORY, RESOLVE_WITHIN)
        finally:
            os.close(root)
        try:
            self._check(fd, name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check(self, fd: int, name: str) -> None:
        with opened_path(fd, name) as (_, status):
            if not self.tree and file_stamp(status) != self._entry.stamp:
                self._was_there = True
                raise FileError(f"`{self.label}' has changed")
