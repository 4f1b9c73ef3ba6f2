# SPDX-License-Identifier: GPL-3.0-or-later
"""The metadata of store items, which are the same whoever made them, wherever and when.

Mode 0444 or 0555, time of modification 1, our own user and group, no extended
attribute, so no access-control list either: what an archive does not tell,
nobody shall see. Everything works on descriptors; whoever walks a tree calls
`Canonicaliser` for what it has opened, or lets `canonicalise` walk.
"""

import errno
import os
import stat

from store.errors import FileError
from store.files import walk_opened
from store.syscalls import chown_opened, set_times_opened

MODIFIED = 1
_SECOND = 1_000_000_000
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.ENOSYS)
# Set by the system on every file, and not for us to remove.
_KEPT_ATTRIBUTES = ("security.selinux", "system.nfs4_acl")


class Canonicaliser:
    """Gives what belongs to a builder to us, with canonical metadata.

    One serves all outputs of a build, which may have hard links in common.

    Args:
        owner: Whom everything must belong to before; None where that does not
            matter. A hard link to somebody else's file must not change hands.
    """

    def __init__(self, owner: int | None = None) -> None:
        self._owner = owner
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._seen: set[tuple[int, int]] = set()

    def claim(self, status: os.stat_result, path: str) -> bool:
        """Check that something may be changed; tell whether that is still to be done.

        It is not for a second link to a file that was changed before.

        Raises:
            FileError: It belongs to somebody else (reason ``invalid-ownership``), or is
                no file, directory or link (reason ``unsupported-type``).
        """
        if stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise unsupported_type(path)
        inode = status.st_dev, status.st_ino
        if self._owner is not None and status.st_uid != self._owner:
            if inode in self._seen and not stat.S_ISDIR(status.st_mode):
                return False
            raise FileError(f"invalid ownership on file `{path}'", reason="invalid-ownership")
        self._seen.add(inode)
        return True

    def settle(self, fd: int | str, status: os.stat_result) -> None:
        """Give canonical metadata to a file or directory.

        Args:
            fd: What is open, or its name in /proc if it is open for its path alone.
            status: Its present metadata.
        """
        # The owner first: whoever is not the owner cannot change the mode back.
        if (status.st_uid, status.st_gid) != (self._uid, self._gid):
            os.chown(fd, self._uid, self._gid)
        wanted = canonical_mode(status.st_mode)
        if stat.S_IMODE(status.st_mode) != wanted:
            os.chmod(fd, wanted)
        _remove_attributes(fd)
        if status.st_mtime_ns != MODIFIED * _SECOND:
            os.utime(fd, ns=(status.st_atime_ns, MODIFIED * _SECOND))

    def settle_link(self, fd: int, status: os.stat_result) -> None:
        """Give canonical metadata to a symbolic link that is open for its path."""
        if (status.st_uid, status.st_gid) != (self._uid, self._gid):
            chown_opened(fd, self._uid, self._gid)
        if status.st_mtime_ns != MODIFIED * _SECOND:
            set_times_opened(fd, int(status.st_atime), MODIFIED)


def canonical_mode(mode: int) -> int:
    """Return the permissions that something of a mode gets in the store."""
    return 0o555 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o444


def canonicalise(dirfd: int, name: str, canonicaliser: Canonicaliser) -> None:
    """Give canonical metadata to an entry of a directory and all below it.

    Raises:
        FileError: As `Canonicaliser.claim`; what was visited before has changed.
        OSError: Something cannot be changed.
    """

    def visit(fd: int, status: os.stat_result, path: str) -> None:
        if not canonicaliser.claim(status, path):
            return
        if stat.S_ISLNK(status.st_mode):
            canonicaliser.settle_link(fd, status)
        else:
            canonicaliser.settle(f"/proc/self/fd/{fd}", status)

    walk_opened(dirfd, name, visit)


def unsupported_type(path: str) -> FileError:
    """Make the error for what no archive can hold."""
    return FileError(f"file `{path}' has an unsupported type", reason="unsupported-type")


def _remove_attributes(fd: int | str) -> None:
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return
        raise
    for name in names:
        if name not in _KEPT_ATTRIBUTES:
            os.removexattr(fd, name)
