# SPDX-License-Identifier: GPL-3.0-or-later
"""Where builders look content up by its hash: directories of symbolic links.

Only builders of fixed outputs are shown them, whatever they take from there is
hashed. A link leads to a name that exists in their containers alone: below
`STORE/.items`, which shows the store, or in `STORE/.links`, which is shown to all of
them. The directories lie with the state rather than in the store, whose collectors
would delete what they do not know; the links are hints, like the content index that
they mirror, and may dangle. Entry points: `ContentLinks.update`, for the thread that
writes the index, and `ContentLinks.sweep`.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress

from store.hashes import Digest, HashAlgorithm
from store.layout import Layout
from store.links import MINIMUM_SIZE

ITEMS = ".items"
"""Where, below the store, the whole store is shown to builders of fixed outputs."""

Key = tuple[str, bytes, bool]
"""An algorithm, a hash, and whether that is of the archive form."""

# Directory index full, and the like: then there is no such link.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMLINK)


class ContentLinks:
    """The directories of links.

    Args:
        layout: Says where they are.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def make(self) -> None:
        """Make the directories."""
        directories = [f"{self._layout.by_hash}/{each}" for each in HashAlgorithm]
        for path in (self._layout.dirlinks, self._layout.by_hash, *directories):
            os.makedirs(path, 0o755, exist_ok=True)
            os.chmod(path, 0o755)  # noqa: S103 - build users look into them, whatever our umask

    def update(self, entries: Iterable[tuple[Key, str | None, Digest | None]]) -> None:
        """Follow changes of the index.

        Args:
            entries: What is known under each key now: the item, or None; and the hash of
                its archive form, if that is known.
        """
        for entry in entries:
            try:
                self._follow(*entry)
            except OSError as error:
                if error.errno not in _FULL:
                    raise

    def _follow(self, key: Key, path: str | None, nar_hash: Digest | None) -> None:
        target = None
        if path is not None and (status := _status(path)) is not None:
            if stat.S_IFMT(status.st_mode) != _linked_type(key):
                return  # what has one content has one type, so there never was a link
            target = self._target(path, status, nar_hash)
        link = self._link(key)
        if link is not None:
            _set_link(link, target)

    def sweep(self, should_stop: Callable[[], bool]) -> int:
        """Remove links to what is gone; return how many. For a thread."""
        removed = 0
        directories = [f"{self._layout.by_hash}/{each}" for each in HashAlgorithm]
        for directory in (self._layout.dirlinks, *directories):
            with os.scandir(directory) as entries:
                for entry in entries:
                    if should_stop():
                        return removed
                    if not self._leads_somewhere(entry.path):
                        with suppress(FileNotFoundError):
                            os.unlink(entry.path)
                            removed += 1
        return removed

    def _leads_somewhere(self, link: str) -> bool:
        try:
            target = os.readlink(link)
        except OSError:
            return False  # no link: whatever it is, it is none of ours
        return os.path.lexists(target.replace(f"/{ITEMS}/", "/", 1))

    def _link(self, key: Key) -> str | None:
        algorithm, value, recursive = key
        if not recursive:
            return f"{self._layout.by_hash}/{algorithm}/{value.hex()}"
        if algorithm == HashAlgorithm.SHA256:
            return f"{self._layout.dirlinks}/{Digest(HashAlgorithm.SHA256, value).base32}"
        return None

    def _target(self, path: str, status: os.stat_result, nar_hash: Digest | None) -> str:
        """Return what a link leads to."""
        if nar_hash is not None and stat.S_ISREG(status.st_mode) and status.st_size >= MINIMUM_SIZE:
            shared = f"{self._layout.links}/{nar_hash.base32}"
            if os.path.lexists(shared):
                return shared
        return f"{self._layout.store}/{ITEMS}/{path.rpartition('/')[2]}"


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _linked_type(key: Key) -> int:
    """Return of what type items are that links lead to under a key: directories have archives."""
    return stat.S_IFDIR if key[2] else stat.S_IFREG


def _set_link(link: str, target: str | None) -> None:
    if target is None:
        with suppress(FileNotFoundError):
            os.unlink(link)
        return
    try:
        os.symlink(target, link)
    except FileExistsError:
        if os.readlink(link) != target:
            # Builders never see the name without a link.
            temporary = f"{link}.new"
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            os.symlink(target, temporary)
            os.rename(temporary, link)
