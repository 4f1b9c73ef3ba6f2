# SPDX-License-Identifier: GPL-3.0-or-later
"""Deduplication: equal files of the store share one inode.

The directory `.links` has one name for each file of a certain size on, which is
the base-32 sha256 of the file's archive form; so contents and the executable
bit decide. Such a file is linked there, or replaced by a link to the one that
is there already. The collector removes names that nothing else links to.
"""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from store.errors import FileError
from store.files import open_beneath, open_directory
from store.hashes import Digest
from store.syscalls import link_opened

#: Both daemons leave smaller files alone: `.links` would grow, and little be saved.
MINIMUM_SIZE = 8192

_TEMPORARY = ".tmp-link-"
_ATTEMPTS = 100
_SECOND = 1_000_000_000
# Directory index full, or too many links to one file: then a file just stays as it is.
_FULL = (errno.ENOSPC, errno.EMLINK)


class Links:
    """The directory of deduplicated files.

    Args:
        fd: A descriptor of it, on the store's file system; not taken over.

    Attributes:
        replaced: Files that were replaced by links.
        replaced_size: How long they were together, in bytes.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.replaced = 0
        self.replaced_size = 0

    def deduplicate(self, dirfd: int, name: str | bytes, fd: int, digest: Digest) -> int:
        """Make a file share its inode with its equals; return the bytes of disk that saves.

        The directory must be writable for us, and changes its time of modification.

        Args:
            dirfd: The directory the file is in.
            name: Its name there.
            fd: The file, open for reading, with its final metadata.
            digest: sha256 of its archive form.

        Raises:
            OSError: A link cannot be made, for another reason than a limit.
        """
        status = os.fstat(fd)
        if status.st_size < MINIMUM_SIZE:
            return 0
        for _ in range(_ATTEMPTS):
            saved = self._try(dirfd, name, fd, status, digest.base32)
            if saved is not None:
                return saved
        # Somebody removes our link as often as we make it; no reason to fail.
        return 0

    def _try(
        self, dirfd: int, name: str | bytes, fd: int, status: os.stat_result, link: str
    ) -> int | None:
        """Do what `deduplicate` does; None where somebody came in between."""
        try:
            link_opened(fd, self._fd, link)
        except FileExistsError:
            return self._share(dirfd, name, status, link)
        except OSError as error:
            if error.errno in _FULL:
                return 0
            raise
        return 0

    def _share(
        self, dirfd: int, name: str | bytes, status: os.stat_result, link: str
    ) -> int | None:
        """Replace a file by the one known under its hash, unless its name has another now."""
        temporary = f"{_TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"
        try:
            known = os.stat(link, dir_fd=self._fd, follow_symlinks=False)
            if known.st_ino == status.st_ino:
                return 0
            if not stat.S_ISREG(known.st_mode) or known.st_size != status.st_size:
                # Damaged, as by a crash before its contents reached the disk.
                os.unlink(link, dir_fd=self._fd)
                return None
            if os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_ino != status.st_ino:
                return 0
            os.link(link, temporary, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _FULL:
                return 0
            raise
        return self._replace(temporary, dirfd, name, status)

    def _replace(
        self, temporary: str, dirfd: int, name: str | bytes, status: os.stat_result
    ) -> int:
        try:
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=dirfd)
        except OSError as error:
            os.unlink(temporary, dir_fd=self._fd)
            # Some file systems count the new link before they drop the old one.
            if error.errno == errno.EMLINK:
                return 0
            raise
        self.replaced += 1
        self.replaced_size += status.st_size
        return status.st_blocks * 512

    def deduplicate_tree(
        self, dirfd: int, name: str, files: Iterable[tuple[tuple[bytes, ...], Digest]]
    ) -> int:
        """Deduplicate files of a finished tree, whose metadata stay canonical.

        Args:
            dirfd: The directory the tree is in.
            name: Its name there.
            files: Where each file is below the tree, component by component (no
                component: the tree is that file), and the hash of its archive
                form; those of one directory stand together.
        """
        saved = 0
        parent: tuple[bytes, ...] | None = None
        opened: _OpenDirectory | None = None
        try:
            for where, digest in files:
                if opened is None or where[:-1] != parent:
                    if opened is not None:
                        opened.close()
                    opened = _OpenDirectory(dirfd, name, where)
                    parent = where[:-1]
                saved += self._deduplicate_entry(opened.fd, where[-1] if where else name, digest)
        finally:
            if opened is not None:
                opened.close()
        return saved

    def _deduplicate_entry(self, dirfd: int, name: str | bytes, digest: Digest) -> int:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
        try:
            return self.deduplicate(dirfd, name, fd, digest)
        finally:
            os.close(fd)


class _OpenDirectory:
    """The directory of some file of a tree, made writable, and canonical again by `close`."""

    def __init__(self, dirfd: int, name: str, where: tuple[bytes, ...]) -> None:
        self._canonical = bool(where)
        if not where:
            self.fd = os.dup(dirfd)
            return
        path = os.fsdecode(b"/".join((os.fsencode(name), *where[:-1])))
        self.fd = open_beneath(dirfd, path, os.O_RDONLY | os.O_DIRECTORY)
        os.fchmod(self.fd, 0o755)

    def close(self) -> None:
        try:
            if self._canonical:
                seal_directory(self.fd)
        finally:
            os.close(self.fd)


def seal_directory(fd: int) -> None:
    """Make the metadata of an item's directory canonical again, after its entries changed."""
    os.fchmod(fd, 0o555)
    os.utime(fd, ns=(_SECOND, _SECOND))


def open_links(store_fd: int) -> int:
    """Open the directory of deduplicated files, made where it is absent.

    Raises:
        FileError: Something else has its name.
    """
    with suppress(FileExistsError):
        os.mkdir(".links", 0o755, dir_fd=store_fd)
    try:
        return open_directory(store_fd, ".links")
    except NotADirectoryError as error:
        raise FileError("`.links' in the store is not a directory") from error


@dataclass(frozen=True, slots=True)
class Swept:
    """What sweeping did, and what deduplication is worth afterwards; in files and bytes.

    Attributes:
        removed: Files that nothing used.
        freed: How long these were together.
        saved: How much longer all files would be together without sharing, less
            what the directory of links takes up.
    """

    removed: int
    freed: int
    saved: int


def sweep_unused(links_fd: int) -> Swept:
    """Remove links that are the only name of their file, or whose file is too small to share.

    A link may be taken up at the moment it goes: then its file has that other
    name, and is merely not shared by those that come later.
    """
    removed = freed = saved = 0
    with os.scandir(links_fd) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY) and _is_alive(entry.name):
                continue
            try:
                status = os.lstat(entry.name, dir_fd=links_fd)
                if status.st_nlink > 1 and status.st_size >= MINIMUM_SIZE:
                    saved += (status.st_nlink - 2) * status.st_size
                    continue
                os.unlink(entry.name, dir_fd=links_fd)
            except FileNotFoundError:
                continue
            removed += 1
            freed += status.st_size if status.st_nlink == 1 else 0
    return Swept(removed, freed, saved - os.fstat(links_fd).st_size)


def sweep_links(links_fd: int) -> int:
    """Remove temporary links that dead processes left; return how many. For a thread."""
    removed = 0
    with os.scandir(links_fd) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY) and not _is_alive(entry.name):
                os.unlink(entry.name, dir_fd=links_fd)
                removed += 1
    return removed


def _is_alive(temporary: str) -> bool:
    """Tell whether the process that a temporary link is named after is there."""
    pid = temporary.removeprefix(_TEMPORARY).partition("-")[0]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
