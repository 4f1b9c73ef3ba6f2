# SPDX-License-Identifier: GPL-3.0-or-later
"""A store of which a container sees some items, in one mount however many they are.

It is an overlay file system of three layers. The lowest is the store. Above it, in
memory, lies an index: for each item an empty directory, or a file without content,
whose extended attributes lead the kernel to the item. On top is the directory that
takes what the builder makes. Shown is only what is below one directory that the store
does not have, so no item is seen but those of the index.

Root alone can make one: these attributes cannot be set in a user namespace, nor are they
followed there. Entry point: `make_view`.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack

from builder.operations import UPPER_NAME
from builder.spawner.filesystems import CLONE_TREE, mount_file_system
from builder.spawner.syscalls import (
    AT_FDCWD,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOVE_MOUNT_F_EMPTY_PATH,
    move_mount,
    open_tree,
    umount2,
)

_PLAIN = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_REDIRECT = b"trusted.overlay.redirect"
_NO_CONTENT = b"trusted.overlay.metacopy"
_PROBE = b"trusted.storedaemon"
_SHOWN = UPPER_NAME.encode()
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPTIONS = (
    (b"redirect_dir", b"on"),
    (b"metacopy", b"on"),
    (b"index", b"off"),
    (b"xino", b"off"),
)
# What is made lives no longer than the container, so nothing has to reach the disk at its end.
_FLAGS = (b"volatile",)


def make_view(
    parent: int, place: bytes, store: bytes, names: Iterable[bytes], upper: bytes, work: bytes
) -> int:
    """Make a view; give its mount, which is attached nowhere.

    Args:
        parent: A directory of the container's root; becomes the working directory.
        place: An empty directory in it, where mounts are attached meanwhile: before
            Linux 6.15 the kernel takes layers, and makes copies, of attached ones only.
        store: The store directory.
        names: The items.
        upper: See `builder.operations.StoreView`.
        work: Likewise.

    Raises:
        OSError: An item is missing, or the kernel or a file system lacks what it takes.
    """
    with ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        lowest, top, spare = (keep(os.open(path, _DIRECTORY)) for path in (store, upper, work))
        _refuse_without_attributes(top)
        os.fchdir(parent)
        index = keep(_attach(stack, place, mount_file_system(b"tmpfs", (), _PLAIN)))
        _fill(index, lowest, names)
        layers = (
            (b"lowerdir", b"%s:%s" % (_named(index), _named(lowest))),
            (b"upperdir", _named(top)),
            (b"workdir", _named(spare)),
        )
        overlay = mount_file_system(b"overlay", (*layers, *_OPTIONS), _PLAIN, _FLAGS)
        keep(_attach(stack, place, overlay))
        return open_tree(AT_FDCWD, place + b"/" + _SHOWN, CLONE_TREE)


def _attach(stack: ExitStack, place: bytes, mount: int) -> int:
    """Mount on a place of the working directory until the stack is unwound; give the mount."""
    try:
        move_mount(mount, b"", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH)
    except OSError:
        os.close(mount)
        raise
    stack.callback(umount2, place, MNT_DETACH)
    return mount


def _named(fd: int) -> bytes:
    """Name an open directory so that no colon or comma of its path is taken for an option's."""
    return b"/proc/self/fd/%d" % fd


def _refuse_without_attributes(upper: int) -> None:
    """Fail where the kernel would go on without following any redirection."""
    os.setxattr(upper, _PROBE, b"")
    os.removexattr(upper, _PROBE)


def _fill(index: int, store: int, names: Iterable[bytes]) -> None:
    """Make the entries that lead to the items."""
    os.mkdir(_SHOWN, 0o755, dir_fd=index)
    shown = os.open(_SHOWN, _DIRECTORY, dir_fd=index)
    home = os.open(".", _DIRECTORY)
    try:
        # Attributes of a directory are set by its name alone.
        os.fchdir(shown)
        for name in names:
            _add(name, os.stat(name, dir_fd=store, follow_symlinks=False), store)
    finally:
        os.fchdir(home)
        os.close(home)
        os.close(shown)


def _add(name: bytes, status: os.stat_result, store: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=store), name)
    elif stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700)
        os.setxattr(name, _REDIRECT, b"/" + name)
        os.chmod(name, stat.S_IMODE(status.st_mode))
    elif stat.S_ISREG(status.st_mode):
        _add_file(name, status)
    else:
        raise OSError(f"`{os.fsdecode(name)}' is no file, directory or symbolic link")
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _add_file(name: bytes, status: os.stat_result) -> None:
    fd = os.open(name, _NEW_FILE, 0o600)
    try:
        os.ftruncate(fd, status.st_size)
        os.setxattr(fd, _NO_CONTENT, b"")
        os.setxattr(fd, _REDIRECT, b"/" + name)
        os.fchmod(fd, stat.S_IMODE(status.st_mode))
    finally:
        os.close(fd)
