# SPDX-License-Identifier: GPL-3.0-or-later
"""What is mounted and made in a container's root, by descriptors alone.

Targets are resolved relative to the new root without following any symbolic link, so a
link in one mount cannot lead the next one elsewhere.

Entry point: `Workshop`, which executes the steps of a script.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from builder.spawner.filesystems import CLONE_TREE, mount_file_system, mount_tree
from builder.spawner.script import Step
from builder.spawner.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    AT_SYMLINK_NOFOLLOW,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_BIND,
    MS_REC,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    how_to_open,
    mount,
    mount_attributes,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
)
from builder.spawner.view import make_view

_MAX_OPEN = 64  # directories kept open: far below any limit of descriptors
_ATTRIBUTES_BELOW = AT_RECURSIVE | AT_SYMLINK_NOFOLLOW
_DIRECTORY = how_to_open(os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
_SEALED = mount_attributes(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
_LINKS = (
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
    (b"ptmx", b"/dev/pts/ptmx"),
)


def fill_devices(directory: int, nodes: tuple[bytes, ...]) -> None:
    """Fill a new file system with device nodes and what goes with them, and seal it.

    Nodes are mounts of the host's: a user namespace may not make any. Writing to a device
    is no writing to its file system, so all of it can be read-only.
    """
    for name in (b"shm", b"pts"):
        os.mkdir(name, 0o755, dir_fd=directory)
    for name, destination in _LINKS:
        os.symlink(destination, name, dir_fd=directory)
    for node in nodes:
        os.mknod(node, stat.S_IFREG | 0o600, dir_fd=directory)
        tree = mount_tree(b"/dev/" + node)
        try:
            move_mount(tree, b"", directory, node, MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(tree)
    mount_setattr(directory, b"", AT_EMPTY_PATH | AT_RECURSIVE, _SEALED, len(_SEALED))


class DeviceTemplate(NamedTuple):
    """A finished device directory, attached nowhere, of which a container takes a copy."""

    mount: int
    nodes: tuple[bytes, ...]


def make_device_template(nodes: tuple[bytes, ...]) -> DeviceTemplate | None:
    """Make a template; None where only an attached mount can be mounted on or copied.

    Linux 6.15 has lifted that, and a user without privileges cannot mount here at all.
    """
    tree = -1
    try:
        tree = mount_file_system(b"tmpfs", ((b"mode", b"0755"),), MOUNT_ATTR_NOSUID)
        fill_devices(tree, nodes)
        os.close(open_tree(tree, b"", CLONE_TREE | AT_EMPTY_PATH))
    except OSError:
        if tree >= 0:
            os.close(tree)
        return None
    return DeviceTemplate(tree, nodes)


class Workshop:
    """Executes the steps of a script in a root.

    Args:
        root: A descriptor of the root directory.
        devices: A finished device directory to copy, where one could be made.
    """

    def __init__(self, root: int, devices: DeviceTemplate | None = None) -> None:
        self._root = root
        self._template = devices
        self._parents: dict[bytes, int] = {b"": root}
        self._working_directory = -1
        self._executors: tuple[Callable[..., None], ...] = (
            self._bind,
            self._make_file,
            self._make_directory,
            self._make_link,
            self._mount,
            self._make_devices,
            self._view_store,
        )

    def execute(self, step: Step) -> None:
        """Execute one step.

        Raises:
            OSError: It failed.
        """
        _, action, *arguments = step
        if len(self._parents) > _MAX_OPEN:
            self.close()
        self._executors[action](*arguments)

    def close(self) -> None:
        """Close the directories that were opened, but for the root."""
        for path, fd in self._parents.items():
            if path:
                os.close(fd)
        self._parents = {b"": self._root}
        self._working_directory = -1

    def _parent(self, path: bytes) -> int:
        """Give a descriptor of a directory, which is made if it is missing."""
        fd = self._parents.get(path)
        if fd is None:
            try:
                fd = openat2(self._root, path, _DIRECTORY, len(_DIRECTORY))
            except FileNotFoundError:
                above, _, name = path.rpartition(b"/")
                os.mkdir(name, 0o755, dir_fd=self._parent(above))
                fd = openat2(self._root, path, _DIRECTORY, len(_DIRECTORY))
            self._parents[path] = fd
        return fd

    def _attach(self, tree: int, parent: bytes, name: bytes) -> None:
        """Put a mount in its place; directories opened beneath the place are forgotten."""
        move_mount(tree, b"", self._parent(parent), name, MOVE_MOUNT_F_EMPTY_PATH)
        place = parent + b"/" + name
        covered = [p for p in self._parents if p == place or p.startswith(place + b"/")]
        for path in covered:
            os.close(self._parents.pop(path))
            self._working_directory = -1  # its number may come back for another one

    def make_place(self, parent: bytes, name: bytes) -> None:
        """Make sure that there is something to mount a directory on.

        What is there already shows at the mount, which follows no link.
        """
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self._parent(parent))

    def _bind(
        self, parent: bytes, name: bytes, source: bytes, attributes: bytes, missing_is_error: int
    ) -> None:
        try:
            mode = os.lstat(source).st_mode
        except FileNotFoundError:
            if missing_is_error:
                raise
            return
        above = self._parent(parent)
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(source), name, dir_fd=above)
            return
        try:
            if stat.S_ISDIR(mode):
                os.mkdir(name, 0o755, dir_fd=above)
            else:
                os.mknod(name, stat.S_IFREG | 0o600, dir_fd=above)
        except FileExistsError:
            self._bind_over(parent, name, source, attributes)
        else:
            self._bind_fresh(above, name, source, attributes)

    def _bind_fresh(self, above: int, name: bytes, source: bytes, attributes: bytes) -> None:
        """Mount on what was just made, and so is no link, by the calls that take the least time."""
        if self._working_directory != above:
            os.fchdir(above)
            self._working_directory = above
        mount(source, name, None, MS_BIND | MS_REC, None)
        mount_setattr(AT_FDCWD, name, _ATTRIBUTES_BELOW, attributes, len(attributes))

    def _bind_over(self, parent: bytes, name: bytes, source: bytes, attributes: bytes) -> None:
        """Mount on what was there, by the calls that follow no link."""
        tree = mount_tree(source)
        try:
            mount_setattr(tree, b"", AT_EMPTY_PATH | AT_RECURSIVE, attributes, len(attributes))
            self._attach(tree, parent, name)
        finally:
            os.close(tree)

    def _make_file(self, parent: bytes, name: bytes, contents: bytes, mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(name, flags, mode, dir_fd=self._parent(parent))
        try:
            view = memoryview(contents)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)

    def _make_directory(self, parent: bytes, name: bytes, mode: int, uid: int, gid: int) -> None:
        above = self._parent(parent)
        try:
            os.mkdir(name, mode, dir_fd=above)
        except FileExistsError:
            self._change_directory(above, name, mode)
        if (uid, gid) != (-1, -1):
            os.chown(name, uid, gid, dir_fd=above, follow_symlinks=False)

    def _change_directory(self, above: int, name: bytes, mode: int) -> None:
        fd = os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def _make_link(self, parent: bytes, name: bytes, destination: bytes) -> None:
        os.symlink(destination, name, dir_fd=self._parent(parent))

    def _make_devices(self, parent: bytes, name: bytes, nodes: tuple[bytes, ...]) -> None:
        template = self._template
        if template is not None and template.nodes == nodes:
            tree = open_tree(template.mount, b"", CLONE_TREE | AT_EMPTY_PATH)
        else:
            tree = mount_file_system(b"tmpfs", ((b"mode", b"0755"),), MOUNT_ATTR_NOSUID)
            template = None
        try:
            self.make_place(parent, name)
            self._attach(tree, parent, name)
            if template is None:
                fill_devices(tree, nodes)
        finally:
            os.close(tree)

    def _view_store(
        self, parent: bytes, name: bytes, store: bytes, items: bytes, upper: bytes, work: bytes
    ) -> None:
        self.make_place(parent, name)
        tree = make_view(self._parent(parent), name, store, items.split(b"\n"), upper, work)
        self._working_directory = -1
        try:
            self._attach(tree, parent, name)
        finally:
            os.close(tree)

    def _mount(self, parent: bytes, name: bytes, *file_system: Any) -> None:
        tree = mount_file_system(*file_system)
        try:
            self.make_place(parent, name)
            self._attach(tree, parent, name)
        finally:
            os.close(tree)
