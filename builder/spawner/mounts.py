# SPDX-License-Identifier: GPL-3.0-or-later
"""What is mounted and made in a container's root, by descriptors alone.

Targets are resolved relative to the new root without following any symbolic link, so a
link in one mount cannot lead the next one elsewhere.

Entry point: `Workshop`, which executes the steps of a script.
"""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from builder.spawner.filesystems import (
    CLONE_TREE,
    mount_file_system,
    mount_tree,
    open_all,
)
from builder.spawner.script import BIND, MAKE_DEVICES, VIEW_STORE, Step
from builder.spawner.shelf import Shelf
from builder.spawner.syscalls import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    how_to_open,
    mount_attributes,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
)
from builder.spawner.view import make_view, open_layers
from locker.channel import close_all

_MAX_OPEN = 64  # directories kept open: far below any limit of descriptors
_DIRECTORY = how_to_open(os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
_SEALED = mount_attributes(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, MS_PRIVATE)
_LINKS = (
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
    (b"ptmx", b"/dev/pts/ptmx"),
)


def open_devices(nodes: Iterable[bytes]) -> tuple[int, ...]:
    """Give mounts of the host's device nodes."""
    return open_all(mount_tree, [b"/dev/" + node for node in nodes])


def fill_devices(directory: int, nodes: tuple[bytes, ...], trees: tuple[int, ...]) -> None:
    """Fill a new file system with device nodes and what goes with them, and seal it.

    Nodes are mounts of the host's: a user namespace may not make any. Writing to a device
    is no writing to its file system, so all of it can be read-only.
    """
    for name in (b"shm", b"pts"):
        os.mkdir(name, 0o755, dir_fd=directory)
    for name, destination in _LINKS:
        os.symlink(destination, name, dir_fd=directory)
    for node, tree in zip(nodes, trees, strict=True):
        os.mknod(node, stat.S_IFREG | 0o600, dir_fd=directory)
        move_mount(tree, b"", directory, node, MOVE_MOUNT_F_EMPTY_PATH)
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
    trees: tuple[int, ...] = ()
    try:
        trees = open_devices(nodes)
        tree = mount_file_system(b"tmpfs", ((b"mode", b"0755"),), MOUNT_ATTR_NOSUID)
        fill_devices(tree, nodes, trees)
        os.close(open_tree(tree, b"", CLONE_TREE | AT_EMPTY_PATH))
    except OSError:
        if tree >= 0:
            os.close(tree)
        return None
    finally:
        close_all(trees)
    return DeviceTemplate(tree, nodes)


class Workshop:
    """Executes the steps of a script in a root.

    What a step shows of the host is fetched first, since a room does not have the host's
    mounts.

    Args:
        root: A descriptor of the root directory.
        proc: Of a ``/proc`` that shows this process.
        devices: A finished device directory to copy, where one could be made.
    """

    def __init__(self, root: int, proc: int, devices: DeviceTemplate | None = None) -> None:
        self._root = root
        self._proc = proc
        self._template = devices
        self._parents: dict[bytes, int] = {b"": root}
        self._shelf = Shelf()
        self._fetched: dict[int, tuple[int, ...]] = {}
        self._executors: tuple[Callable[..., None], ...] = (
            self._bind,
            self._make_file,
            self._make_directory,
            self._make_link,
            self._mount,
            self._make_devices,
            self._view_store,
        )

    def must_fetch(self, step: Step) -> bool:
        """Tell whether a step shows anything of the host."""
        action = step[1]
        if action == MAKE_DEVICES:
            return self._template is None or self._template.nodes != step[4]
        return action in (BIND, VIEW_STORE)

    def fetch(self, step: Step) -> None:
        """Open what a step shows of the host, where the host's mounts can be seen.

        Raises:
            OSError: It failed.
        """
        at, action = step[:2]
        if action == BIND:
            self._fetched[at] = self._fetch_bind(*step[4:])
        elif action == MAKE_DEVICES:
            self._fetched[at] = open_devices(step[4])
        else:
            self._fetched[at] = open_layers(step[4], *step[6:])

    def execute(self, step: Step) -> None:
        """Execute one step; what it shows of the host was fetched.

        Raises:
            OSError: It failed.
        """
        at, action, *arguments = step
        if len(self._parents) > _MAX_OPEN:
            self._forget_parents()
        fds = self._fetched.get(at)
        if fds is None:
            self._executors[action](*arguments)
        else:
            self._executors[action](*arguments, fds)
            del self._fetched[at]
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        """Close what was opened, but for the root."""
        self._forget_parents()
        self._shelf.close()
        for fds in self._fetched.values():
            close_all(fds)
        self._fetched.clear()

    def _forget_parents(self) -> None:
        for path, fd in self._parents.items():
            if path:
                os.close(fd)
        self._parents = {b"": self._root}

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

    def make_directories(self, path: bytes) -> None:
        """Make sure that there is a directory; it stays open."""
        self._parent(path)

    def remove_file(self, parent: bytes, name: bytes) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=self._parent(parent))

    def make_place(self, parent: bytes, name: bytes) -> None:
        """Make sure that there is something to mount a directory on.

        What is there already shows at the mount, which follows no link.
        """
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self._parent(parent))

    def _fetch_bind(
        self, source: bytes, attributes: bytes, missing_is_error: int
    ) -> tuple[int, ...]:
        try:
            return (self._shelf.open(source, attributes),)
        except FileNotFoundError:
            if missing_is_error:
                raise
            return ()

    def _bind(
        self,
        parent: bytes,
        name: bytes,
        _source: bytes,
        _attributes: bytes,
        _missing_is_error: int,
        trees: tuple[int, ...],
    ) -> None:
        if not trees:
            return
        above = self._parent(parent)
        tree = trees[0]
        mode = os.fstat(tree).st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(b"", dir_fd=tree), name, dir_fd=above)
            return
        try:
            if stat.S_ISDIR(mode):
                os.mkdir(name, 0o755, dir_fd=above)
            else:
                os.mknod(name, stat.S_IFREG | 0o600, dir_fd=above)
        except FileExistsError:
            self._attach(tree, parent, name)
        else:
            move_mount(tree, b"", above, name, MOVE_MOUNT_F_EMPTY_PATH)

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

    def _make_devices(
        self,
        parent: bytes,
        name: bytes,
        nodes: tuple[bytes, ...],
        trees: tuple[int, ...] | None = None,
    ) -> None:
        template = self._template
        if trees is None and template is not None:
            tree = open_tree(template.mount, b"", CLONE_TREE | AT_EMPTY_PATH)
        else:
            tree = mount_file_system(b"tmpfs", ((b"mode", b"0755"),), MOUNT_ATTR_NOSUID)
        try:
            self.make_place(parent, name)
            self._attach(tree, parent, name)
            if trees is not None:
                fill_devices(tree, nodes, trees)
        finally:
            os.close(tree)

    def _view_store(
        self,
        parent: bytes,
        name: bytes,
        _store: bytes,
        items: bytes,
        upper: bytes,
        work: bytes,
        layers: tuple[int, ...],
    ) -> None:
        self.make_place(parent, name)
        place = self._parent(parent), name
        tree = make_view(place, layers, items.split(b"\n"), (upper, work), self._proc)
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
