# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories of one build on the host: made, given to the build user, kept or deleted.

What a builder owns always lies below a directory that it does not own and nobody
else may enter: nobody can reach it from outside while it is being changed, and
the builder cannot let anybody in (CVE-2021-27851). In a container these are

    BUILDS/guix-build-NAME.drv-N/      the daemon's, mode 0700
        top/                           the build directory
        tmp/                           what the builder sees as /tmp
    STORE/HASH-NAME.drv.chroot/        the daemon's, mode 0700; a collector knows the name
        store/                         takes the outputs
        HASH-NAME                      the copy of a fixed output, out of anybody's reach
        view/made/, work/              instead of store/, where inputs are shown as one view

and outside one the first directory is the build directory itself, and the
outputs appear in the store.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from builder.environment import build_directory_name
from builder.operations import UPPER_NAME
from builder.plan import View, Workplace
from builder.users import BuildUser
from store.files import delete_tree
from store.paths import StorePath

PRIVATE_TMP = "/tmp"  # noqa: S108 - of the container, not of the host
_PRIVATE = ".chroot"
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class BuildDirectories:
    """Where one build lies, as parents and names for deletion, and as paths for mounting.

    Attributes:
        top: The outermost build directory.
        private: The directory beside the store's items that nobody else may enter.
        workplace: What of it a builder uses.
        owner: The user that the outputs must belong to; None for the daemon's own.
    """

    top: str
    private: str
    workplace: Workplace
    owner: int | None

    @property
    def deletable(self) -> tuple[str, ...]:
        """The trees that a build leaves behind."""
        return (self.private, self.top)


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a directory that is none of a builder's, for what lies in it."""
    fd = os.open(path, DIRECTORY_FLAGS)
    try:
        yield fd
    finally:
        os.close(fd)


def make_top(parent: str, derivation_name: str) -> str:
    """Make a new directory ``guix-build-NAME-N`` with mode 0700; N is the first that is free."""
    for number in count():
        path = f"{parent}/guix-build-{derivation_name}-{number}"
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        return path
    raise AssertionError


def private_directory(drv: StorePath) -> str:
    """Return the path of a build's private directory.

    The C++ daemon has one of the same name, and its collector spares it while
    the derivation is a temporary root.
    """
    return f"{drv}{_PRIVATE}"


def inner_directories(deletable: str) -> tuple[str, ...]:
    """Return the names of what one of the deletable trees of a build in a container holds."""
    return ("store",) if deletable.endswith(_PRIVATE) else ("tmp", "top")


def make_isolated(
    parent: str, drv: StorePath, derivation_name: str, user: BuildUser | None, *, view: bool = False
) -> BuildDirectories:
    """Make the directories of a build in a container.

    The private directory must not exist yet.

    Args:
        parent: Where the build directory is made.
        drv: The derivation.
        derivation_name: Its name.
        user: As whom the builder runs; None for the daemon's own user.
        view: Whether what it makes is part of a view of the store.
    """
    private = private_directory(drv)
    os.mkdir(private, 0o700)
    owner = None if user is None else (0, user.gid)
    if view:
        os.mkdir(f"{private}/work", 0o700)
        os.mkdir(f"{private}/view", 0o755)
    store = f"{private}/view/{UPPER_NAME}" if view else f"{private}/store"
    _make(store, 0o1775, owner)
    top = make_top(parent, derivation_name)
    return BuildDirectories(
        top,
        private,
        _workplace(
            top,
            derivation_name,
            user,
            store,
            View(f"{private}/view", f"{private}/work") if view else None,
        ),
        None if user is None else user.uid,
    )


def make_open(
    parent: str, store: str, drv: StorePath, derivation_name: str, user: BuildUser | None
) -> BuildDirectories:
    """Make the directories of a build without a container.

    The private directory must not exist yet.
    """
    private = private_directory(drv)
    os.mkdir(private, 0o700)
    top = make_top(parent, derivation_name)
    if user is not None:
        os.chown(top, user.uid, user.gid, follow_symlinks=False)
    return BuildDirectories(
        top, private, Workplace(top, top, None, store), None if user is None else user.uid
    )


def make_entered(parent: str, derivation_name: str, user: BuildUser | None) -> BuildDirectories:
    """Make the directories of a shell in the place of a builder: all of them in one.

    Nothing lies in the store, where a build of the same derivation may be going on.
    """
    top = make_top(parent, derivation_name)
    store = f"{top}/store"
    _make(store, 0o1775, None if user is None else (0, user.gid))
    workplace = _workplace(top, derivation_name, user, store, None)
    return BuildDirectories(top, top, workplace, None if user is None else user.uid)


def _workplace(
    top: str, derivation_name: str, user: BuildUser | None, store: str, view: View | None
) -> Workplace:
    """Make the directories below the outermost one, and say where all are."""
    build = f"{top}/top"
    temporary = f"{top}/tmp"  # noqa: S108 - below a directory that is ours alone
    _make(build, 0o700, None if user is None else (user.uid, user.gid))
    _make(temporary, 0o1777, None)
    seen_as = f"{PRIVATE_TMP}/{build_directory_name(derivation_name)}"
    return Workplace(build, seen_as, temporary, store, view)


def write_files(directory: str, files: Mapping[str, str]) -> None:
    """Write new files, readable by all, into a build directory that no builder has used yet."""
    with opened(directory) as fd:
        for name, text in files.items():
            _write_new(fd, name, text.encode("utf-8", "surrogateescape"))


def _make(path: str, mode: int, owner: tuple[int, int] | None) -> None:
    """Make a directory in one that is ours alone, which no builder has used yet."""
    os.mkdir(path, 0o700)
    if owner is not None:
        os.chown(path, *owner, follow_symlinks=False)
    if mode != 0o700:
        os.chmod(path, mode)


def _write_new(parent: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o644, dir_fd=parent)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def release_kept(directories: BuildDirectories) -> str:
    """Put a kept build directory in the place of its outermost one, and return its path.

    What the client's user gets must have the name that builders saw as their parent.
    """
    if directories.workplace.build == directories.top:
        return directories.top
    pivot = f"{directories.top}.pivot"
    os.rename(directories.top, pivot)
    os.rename(f"{pivot}/top", directories.top)
    with opened(pivot) as fd:
        for name in os.listdir(fd):
            delete_tree(fd, name)
    os.rmdir(pivot)
    return directories.top
