# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that somebody else may be changing at this moment, reached by descriptors only.

Whoever could once write to a tree can swap its directories for links between
any two of our system calls. So a directory, once opened, is only ever used by
its descriptor; a name is one component, and never followed. Where a path has
several components, `open_beneath` lets the kernel see that it stays inside.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from store.errors import FileError
from store.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    chown_opened,
    openat2,
)

_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Directories open at once; what is nested deeper is first moved up.
_MAX_OPEN = 64
# Who keeps adding files to a directory we delete shall not keep us for ever.
_MAX_ATTEMPTS = 1000


def open_beneath(dirfd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path below a directory; links and ``..`` do not lead anywhere, least of all out.

    Raises:
        FileError: Some component is a link, or the path leaves the directory
            (reason ``outside``).
        OSError: Anything else.
    """
    try:
        return openat2(dirfd, path, flags, _BENEATH, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV):
            raise FileError(
                f"`{path}' goes through a symbolic link or out of its directory", reason="outside"
            ) from error
        raise


def open_directory(dirfd: int, name: str, *, cross_mounts: bool = True) -> int:
    """Open a direct entry that is a directory, no link, for reading."""
    resolve = _BENEATH if cross_mounts else _BENEATH | RESOLVE_NO_XDEV
    return openat2(dirfd, name, _DIRECTORY, resolve)


def require_component(name: str) -> None:
    """Refuse what is not the name of a direct entry.

    Raises:
        FileError: It has a slash or NUL in it, or is empty, ``.`` or ``..``.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise FileError(f"`{name}' is no name of a directory entry")


@dataclass(slots=True)
class _Frame:
    """A directory that is being gone through."""

    fd: int
    name: str
    names: list[str]
    attempts: int = 0


def delete_tree(dirfd: int, name: str, *, kept_links: int = 0) -> int:
    """Delete an entry of a directory and all below it; return the bytes of disk freed.

    Directories without permissions are given some. Mounts are not entered:
    one in the tree makes this fail with EXDEV.

    Args:
        dirfd: The directory.
        name: The entry; it need not exist.
        kept_links: Links a file may have besides the one deleted and still
            count as freed: 1 where `.links` has one that is as good as unused.

    Raises:
        OSError: Something could not be deleted; some of the rest may be gone.
    """
    return delete_entry(dirfd, name, kept_links=kept_links).disk


@dataclass(frozen=True, slots=True)
class Freed:
    """What a deletion freed: bytes of disk, and how long the files were together."""

    disk: int
    size: int


def delete_entry(dirfd: int, name: str, *, kept_links: int = 0) -> Freed:
    """Do what `delete_tree` does, and tell more."""
    require_component(name)
    return _Deletion(dirfd, name, kept_links).run()


class _Deletion:
    def __init__(self, dirfd: int, name: str, kept_links: int) -> None:
        self._most_links = kept_links + 1
        self._disk = 0
        self._size = 0
        self._moved = 0
        # The first frame stands for the caller's directory, of which only one name concerns us.
        self._frames = [_Frame(dirfd, "", [name])]

    def run(self) -> Freed:
        try:
            while self._frames[-1].names or len(self._frames) > 1:
                self._step()
        finally:
            for frame in self._frames[1:]:
                os.close(frame.fd)
        return Freed(self._disk, self._size)

    def _step(self) -> None:
        frame = self._frames[-1]
        if not frame.names:
            self._leave()
            return
        name = frame.names.pop()
        child = self._unlink_or_open(frame.fd, name)
        if child is None:
            return
        if len(self._frames) > _MAX_OPEN:
            os.close(child)
            self._move_up(frame, name)
            return
        self._frames.append(_Frame(child, name, []))
        self._frames[-1].names = os.listdir(child)

    def _unlink_or_open(self, dirfd: int, name: str) -> int | None:
        """Delete what is no directory; open what is one, with all rights to it."""
        for _ in range(_MAX_ATTEMPTS):
            try:
                status = os.lstat(name, dir_fd=dirfd)
                if stat.S_ISDIR(status.st_mode):
                    return open_with_rights(dirfd, name)
                os.unlink(name, dir_fd=dirfd)
            except FileNotFoundError:
                return None
            except OSError as error:
                # It was swapped since; look again.
                if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
                    continue
                raise
            if status.st_nlink <= self._most_links:
                self._disk += status.st_blocks * 512
                self._size += status.st_size
            return None
        raise OSError(errno.EBUSY, "somebody keeps swapping it", name)

    def _leave(self) -> None:
        """Remove the directory that was gone through."""
        frame = self._frames.pop()
        os.close(frame.fd)
        parent = self._frames[-1]
        try:
            os.rmdir(frame.name, dir_fd=parent.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR, errno.EEXIST):
                raise
            # Something was added or swapped in meanwhile, so that is to be deleted as well.
            parent.attempts += 1
            if parent.attempts > _MAX_ATTEMPTS:
                raise
            parent.names.append(frame.name)

    def _move_up(self, frame: _Frame, name: str) -> None:
        """Put a directory that lies deep right below the top one, to save descriptors."""
        top = self._frames[1]
        self._moved += 1
        new = f".deep-{os.getpid()}-{self._moved}-{os.urandom(6).hex()}"
        try:
            os.rename(name, new, src_dir_fd=frame.fd, dst_dir_fd=top.fd)
        except FileNotFoundError:
            return
        top.names.append(new)


def open_with_rights(dirfd: int, name: str) -> int:
    """Open a directory, no mount point, such that its entries can be listed and changed.

    One that does not let us is given mode 0700, if it is ours.
    """
    try:
        fd = open_directory(dirfd, name, cross_mounts=False)
    except PermissionError:
        _grant_rights(dirfd, name)
        fd = open_directory(dirfd, name, cross_mounts=False)
    try:
        if os.fstat(fd).st_mode & 0o700 != 0o700:
            os.fchmod(fd, 0o700)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _grant_rights(dirfd: int, name: str) -> None:
    # Only a descriptor that needs no rights can be had, and fchmod takes none of these;
    # its name in /proc is no name that could be swapped.
    fd = openat2(dirfd, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, _BENEATH)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def chown_tree(dirfd: int, name: str, uid: int, gid: int) -> None:
    """Give an entry of a directory and all below it to a user; nobody else may be changing it.

    Raises:
        FileError: A file has links elsewhere, or several and another owner than the entry,
            so it may be somebody else's (reason ``hard-link``); what was visited before has
            changed hands.
        OSError: Anything else.
    """
    require_component(name)
    owner = os.lstat(name, dir_fd=dirfd).st_uid
    names: Counter[tuple[int, int]] = Counter()

    def has_links(status: os.stat_result) -> bool:
        return not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1

    def count(_fd: int, status: os.stat_result, _path: str) -> None:
        if has_links(status) and status.st_uid == owner:
            names[status.st_dev, status.st_ino] += 1

    def give(fd: int, status: os.stat_result, path: str) -> None:
        if has_links(status) and names[status.st_dev, status.st_ino] != status.st_nlink:
            raise FileError(f"file `{path}' has several hard links", reason="hard-link")
        chown_opened(fd, uid, gid)

    walk_opened(dirfd, name, count)
    walk_opened(dirfd, name, give)


Visit = Callable[[int, os.stat_result, str], None]


def walk_opened(dirfd: int, name: str, visit: Visit, *, max_depth: int = 256) -> None:
    """Call `visit` for an entry and all below it, directories after what is in them.

    `visit` gets a descriptor opened for its path alone (O_PATH), which is
    certain to be of what the status says, and the path from `dirfd`.

    Raises:
        FileError: The tree is nested too deep.
        OSError: Something could not be opened.
    """
    stack: list[_Frame] = []
    try:
        _enter(dirfd, name, name, stack, visit)
        while stack:
            frame = stack[-1]
            if frame.names:
                if len(stack) >= max_depth:
                    raise FileError(f"`{frame.name}' is nested too deep")
                entry = frame.names.pop()
                _enter(frame.fd, entry, f"{frame.name}/{entry}", stack, visit)
            else:
                visit(frame.fd, os.fstat(frame.fd), frame.name)
                os.close(stack.pop().fd)
    finally:
        for frame in stack:
            os.close(frame.fd)


def _enter(dirfd: int, name: str, path: str, stack: list[_Frame], visit: Visit) -> None:
    """Visit an entry that is no directory; put one that is on the stack."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISDIR(status.st_mode):
            visit(fd, status, path)
            os.close(fd)
            return
        listing = os.open(".", _DIRECTORY, dir_fd=fd)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    stack.append(_Frame(listing, path, []))
    stack[-1].names = sorted(os.listdir(listing), reverse=True)
