# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding the roots: every link that keeps an item alive.

The directories of roots are the daemon's, but users own some below them, and
fill them as they like. So a directory is opened from the state directory and
through no link, one at a time however deep they lie; what has another name by
now, or is closed to us, is passed over with a remark. A link is read, never
followed, but for one case: where it leads out of the store, the place it names
is looked at, and if that is a link into the store, that one is the root. Entry
point: `RootFinder`.
"""

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import trio

from store.database import StoreDatabase
from store.errors import FileError
from store.files import open_beneath
from store.layout import Layout
from store.paths import StorePath
from store.syscalls import rename_to_free_name

# Entries looked at in a thread before what was found is reported.
_BATCH = 512
# Searches at once; a user's network directory that hangs keeps no other work from threads.
_SEARCHES = 4
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# What users can bring about, and what cannot hide a root of anybody else's.
_PASSED_OVER = (errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_GONE = (errno.ENOENT, errno.ENOTDIR)
_PLACES = ("gcroots", "manifests", "profiles")
_OPTIONAL = "manifests"
_AUTOMATIC = "gcroots/auto/"

Report = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Root:
    """What keeps an item alive.

    Attributes:
        link: The absolute name of the link, or of the file named like the item.
        item: What it keeps.
    """

    link: str
    item: StorePath


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that is a root if its item is valid; if `remarkable`, one that is not is told."""

    link: str
    item: str
    remarkable: bool = True


@dataclass(frozen=True, slots=True)
class Remark:
    """A line for people."""

    text: str


Finding = Candidate | Remark


class RootFinder:
    """Finds the roots of a store.

    Args:
        layout: Of the store.
        database: Says which items are valid.
    """

    def __init__(self, layout: Layout, database: StoreDatabase) -> None:
        self._layout = layout
        self._database = database
        self._limit = trio.CapacityLimiter(_SEARCHES)

    async def find(self, report: Report) -> list[Root]:
        """Return every root of a valid item, sorted by its link.

        Indirect roots whose link is gone are removed.

        Args:
            report: Awaited with each remark, in the reference's words.

        Raises:
            OSError: Something cannot be read, for a reason no user can bring about.
        """
        roots: dict[str, StorePath] = {}
        # Not closed here: a thread that was given up may still be in it.
        entries = walk_roots(self._layout)
        while batch := await self._next_batch(entries):
            findings = [each for each in batch if each is not None]
            items = {each.item for each in findings if isinstance(each, Candidate)}
            valid = await self._database.valid_subset(items) if items else frozenset()
            for finding in findings:
                if isinstance(finding, Remark):
                    await report(finding.text)
                elif finding.item in valid:
                    roots[finding.link] = StorePath(finding.item)
                elif finding.remarkable:
                    await report(f"skipping invalid root from `{finding.link}' to `{finding.item}'")
        return [Root(link, roots[link]) for link in sorted(roots)]

    async def _next_batch(self, entries: Iterator[Finding | None]) -> list[Finding | None]:
        def take() -> list[Finding | None]:
            return list(islice(entries, _BATCH))

        # Given up, the thread ends with this batch.
        return await trio.to_thread.run_sync(take, abandon_on_cancel=True, limiter=self._limit)


def walk_roots(layout: Layout) -> Iterator[Finding | None]:
    """Look at everything where roots can be; for a thread.

    Yields:
        What was found at each entry; None for nothing.
    """
    fd = os.open(layout.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walk = _Walk(layout, fd)
        for place in _PLACES:
            yield from walk.place(place)
        yield from walk.rest()
    finally:
        os.close(fd)


class _Walk:
    """Where a walk is: directories still to be read, relative to the state directory."""

    def __init__(self, layout: Layout, fd: int) -> None:
        self._state = layout.state
        self._store = f"{layout.store}/"
        self._fd = fd
        self._pending: list[str] = []

    def place(self, name: str) -> Iterator[Finding | None]:
        """Look at one of the directories in which everything lies, or at a link in its place."""
        with os.scandir(self._fd) as entries:
            found = [entry for entry in entries if entry.name == name]
        if found:
            yield self._entry(self._fd, found[0], name)
        elif name != _OPTIONAL:
            yield self._unreadable(name, errno.ENOENT)

    def rest(self) -> Iterator[Finding | None]:
        """Look at all that is below."""
        while self._pending:
            directory = self._pending.pop()
            try:
                fd = open_beneath(self._fd, directory, _DIRECTORY)
            except FileError:
                yield self._unreadable(directory, errno.ELOOP)
            except OSError as error:
                yield self._unreadable(directory, error.errno or 0, error)
            else:
                yield from self._directory(fd, directory)

    def _directory(self, fd: int, directory: str) -> Iterator[Finding | None]:
        try:
            with os.scandir(fd) as entries:
                # Read as a whole, because what is removed below might make it start again.
                listing = list(entries)
            for entry in listing:
                yield self._entry(fd, entry, f"{directory}/{entry.name}")
        finally:
            os.close(fd)

    def _entry(self, dirfd: int, entry: "os.DirEntry[str]", path: str) -> Finding | None:
        try:
            if entry.is_symlink():
                return self._link(dirfd, entry.name, path)
            if entry.is_dir(follow_symlinks=False):
                self._pending.append(path)
            elif entry.is_file(follow_symlinks=False):
                return Candidate(self._full(path), self._store + entry.name, remarkable=False)
        except OSError as error:
            return self._unreadable(path, error.errno or 0, error)
        return None

    def _link(self, dirfd: int, name: str, path: str) -> Finding | None:
        link = self._full(path)
        target = os.readlink(name, dir_fd=dirfd)
        if self._in_store(target):
            return Candidate(link, self._item(target))
        target = _absolute(target, os.path.dirname(link))
        if _exists(target):
            return self._indirect(target)
        if path.startswith(_AUTOMATIC):
            return self._remove_stale(dirfd, name, link, target)
        return None

    def _indirect(self, link: str) -> Candidate | None:
        """Look at a user's link."""
        try:
            target = os.readlink(link)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None  # no link
            raise
        return Candidate(link, self._item(target)) if self._in_store(target) else None

    def _remove_stale(self, dirfd: int, name: str, link: str, target: str) -> Finding | None:
        """Remove a link of ours whose user's link is gone, unless that comes back meanwhile.

        Users make their link first and tell us then. So after ours is out of the way
        the user's either is there, or ours is going to be made anew.
        """
        aside = f"{name}.stale-{os.getpid()}-{os.urandom(6).hex()}"
        os.rename(name, aside, src_dir_fd=dirfd, dst_dir_fd=dirfd)
        gone = False
        try:
            gone = not _exists(target)
        finally:
            if gone:
                os.unlink(aside, dir_fd=dirfd)
            else:
                _put_back(dirfd, aside, name)
        if gone:
            return Remark(f"removing stale link from `{link}' to `{target}'")
        return self._indirect(target)

    def _unreadable(self, path: str, number: int, error: OSError | None = None) -> Remark:
        if error is not None and number not in _PASSED_OVER:
            raise error
        return Remark(f"cannot read potential root '{self._full(path)}': {os.strerror(number)}")

    def _full(self, path: str) -> str:
        return f"{self._state}/{path}"

    def _in_store(self, path: str) -> bool:
        return path.startswith(self._store) and len(path) > len(self._store)

    def _item(self, path: str) -> str:
        return self._store + path.removeprefix(self._store).partition("/")[0]


def _put_back(dirfd: int, aside: str, name: str) -> None:
    try:
        rename_to_free_name(dirfd, aside, dirfd, name)
    except FileExistsError:
        os.unlink(aside, dir_fd=dirfd)


def _absolute(target: str, directory: str) -> str:
    """Spell what a link names in full, dots taken out as text, as the reference does."""
    return "/" + os.path.normpath(os.path.join(directory, target)).lstrip("/")


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise
    return True
