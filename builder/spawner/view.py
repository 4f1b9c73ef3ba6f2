# SPDX-License-Identifier: GPL-3.0-or-later
"""A store of which a container sees some items, in one mount however many they are.

It is an overlay file system of three layers. The lowest is the store. Above it, in
memory, lies an index: for each item an empty directory, or a file without content,
whose extended attributes lead the kernel to the item. On top is the directory that
takes what the builder makes. Shown is only what is below one directory that the store
does not have, so no item is seen but those of the index.

Root alone can make one: these attributes cannot be set in a user namespace, nor are they
followed there. Entry points: `open_layers`, `make_view`.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack

from builder.operations import UPPER_NAME
from builder.spawner.filesystems import CLONE_TREE, mount_file_system, open_all
from builder.spawner.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    OPEN_TREE_CLONE,
    mount_attributes,
    mount_setattr,
    move_mount,
    open_tree,
    umount2,
)

_PLAIN = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_REDIRECT = b"trusted.overlay.redirect"
_NO_CONTENT = b"trusted.overlay.metacopy"
_PROBE = b"trusted.storedaemon"
_SHOWN = UPPER_NAME.encode()
_LAYERS, _WHOLE = (_SHOWN + b".store", _SHOWN + b".made"), _SHOWN + b".whole"  # beside it
_PRIVATE = mount_attributes(0, MS_PRIVATE)
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


def open_layers(store: bytes, upper: bytes, work: bytes) -> tuple[int, ...]:
    """Give mounts of the store and of what has the other two directories, attached nowhere.

    Args:
        store: The store directory.
        upper: See `builder.operations.StoreView`.
        work: Likewise.

    Raises:
        OSError: One is missing.
    """
    # The kernel takes both from one mount only.
    return open_all(_open_layer, (store, os.path.commonpath((upper, work))))


def _open_layer(path: bytes) -> int:
    tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | os.O_CLOEXEC | AT_SYMLINK_NOFOLLOW)
    try:
        mount_setattr(tree, b"", AT_EMPTY_PATH, _PRIVATE, len(_PRIVATE))
    except OSError:
        os.close(tree)
        raise
    return tree


def make_view(
    place: tuple[int, bytes],
    layers: tuple[int, ...],
    names: Iterable[bytes],
    changes: tuple[bytes, bytes],
    proc: int,
) -> int:
    """Make a view; give its mount, which is attached nowhere.

    Args:
        place: A directory of the container's root, which becomes the working directory, and
            the name of an empty directory in it, where all is attached meanwhile: before
            Linux 6.15 the kernel takes layers, and makes copies, of attached mounts only.
        layers: What `open_layers` gave; they remain the caller's.
        names: The items.
        changes: The upper and the working directory that `open_layers` was given.
        proc: A descriptor of a ``/proc`` that shows this process.

    Raises:
        OSError: An item is missing, or the kernel or a file system lacks what it takes.
    """
    parent, name = place
    os.fchdir(parent)
    with ExitStack() as stack:
        index = _keep(stack, mount_file_system(b"tmpfs", (), _PLAIN))
        move_mount(index, b"", parent, name, MOVE_MOUNT_F_EMPTY_PATH)
        stack.callback(umount2, name, MNT_DETACH)  # and all that is attached in it
        _fill(index, layers[0], names)
        for directory in (*_LAYERS, _WHOLE):
            os.mkdir(directory, dir_fd=index)
        for mount, directory in zip(layers, _LAYERS, strict=True):
            move_mount(mount, b"", index, directory, MOVE_MOUNT_F_EMPTY_PATH)
        os.fchdir(proc)
        try:
            overlay = _keep(stack, _mount_overlay(stack, index, layers, changes))
        finally:
            os.fchdir(parent)
        move_mount(overlay, b"", index, _WHOLE, MOVE_MOUNT_F_EMPTY_PATH)
        return open_tree(overlay, _SHOWN, CLONE_TREE)


def _keep(stack: ExitStack, fd: int) -> int:
    """Have a descriptor closed when the stack is unwound."""
    stack.callback(os.close, fd)
    return fd


def _mount_overlay(
    stack: ExitStack, index: int, layers: tuple[int, ...], changes: tuple[bytes, bytes]
) -> int:
    """Mount the layers from within ``/proc``, where the names of descriptors begin."""
    store, made = layers
    above = os.path.commonpath(changes)
    top, spare = (
        _keep(stack, os.open(os.path.relpath(path, above), _DIRECTORY, dir_fd=made))
        for path in changes
    )
    _refuse_without_attributes(top)
    directories = (
        (b"lowerdir", b"%s:%s" % (_named(index), _named(store))),
        (b"upperdir", _named(top)),
        (b"workdir", _named(spare)),
    )
    return mount_file_system(b"overlay", (*directories, *_OPTIONS), _PLAIN, _FLAGS)


def _named(fd: int) -> bytes:
    """Name an open directory so that no colon or comma of its path is taken for an option's."""
    return b"self/fd/%d" % fd


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
