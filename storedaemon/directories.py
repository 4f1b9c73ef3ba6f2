# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the directories of a store, with the owners and modes that both daemons expect.

`plan` says what there must be, and is pure; `prepare` makes it so. What users have
is made when they connect (`storedaemon.homes`). Entry point: `prepare`.
"""

import errno
import grp
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from store.errors import FileError, StoreError
from store.layout import Layout

# Build users make their outputs in the store, and may not touch each other's.
SHARED_STORE_MODE = 0o1775
PLAIN_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory there must be.

    Attributes:
        path: Its absolute file name.
        mode: Its mode when it is made.
        group: Its group, by number; None to leave owner and group alone.
        enforce: Whether an existing one is given that owner, group and mode too.
    """

    path: str
    mode: int = PLAIN_MODE
    group: int | None = None
    enforce: bool = False


def plan(layout: Layout, group: int | None) -> tuple[Directory, ...]:
    """List the directories of a store, parents first.

    Args:
        layout: Where they are.
        group: The group of build users, where root uses one.
    """
    shared = group is not None
    return (
        Directory(layout.store, SHARED_STORE_MODE if shared else PLAIN_MODE, group, enforce=shared),
        Directory(layout.links),
        Directory(layout.state),
        Directory(layout.profiles),
        Directory(layout.gc_roots),
        Directory(f"{layout.gc_roots}/auto"),
        Directory(layout.temp_roots),
        Directory(layout.database),
        Directory(layout.user_pool),
        Directory(f"{layout.logs}/drvs"),
    )


def prepare(layout: Layout, build_users_group: str) -> None:
    """Make what is missing, and refuse a store that symbolic links lead to.

    Raises:
        StoreError: The group does not exist (reason ``no-such-group``).
        FileError: A directory cannot be made, or the store is behind a link.
    """
    group = group_number(build_users_group) if os.geteuid() == 0 and build_users_group else None
    try:
        for directory in plan(layout, group):
            _make(directory)
        _link_profiles(layout)
    except OSError as error:
        raise FileError(f"cannot prepare '{error.filename}': {error.strerror}") from error
    if os.environ.get("NIX_IGNORE_SYMLINK_STORE") != "1":
        refuse_links(layout.store)


def group_number(name: str) -> int:
    """Look up the group of build users.

    Raises:
        StoreError: There is no such group.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise StoreError(
            f"the group `{name}' specified in `build-users-group' does not exist",
            reason="no-such-group",
        ) from error


def _make(directory: Directory) -> None:
    path = Path(directory.path)
    path.parent.mkdir(mode=PLAIN_MODE, parents=True, exist_ok=True)
    made = False
    # Another daemon on the same store may make it at the same moment.
    with suppress(FileExistsError):
        path.mkdir(mode=directory.mode)
        made = True
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory.path)
    if made or directory.enforce:
        _correct(directory, status)


def _correct(directory: Directory, status: os.stat_result) -> None:
    if directory.group is not None and (status.st_uid, status.st_gid) != (0, directory.group):
        os.chown(directory.path, 0, directory.group)
    # mkdir applies the umask, and chown may clear bits.
    if stat.S_IMODE(status.st_mode) != directory.mode:
        Path(directory.path).chmod(directory.mode)


def _link_profiles(layout: Layout) -> None:
    """Let profiles keep their items alive; the reference makes this link with the directory."""
    with suppress(FileExistsError):
        Path(layout.gc_roots, "profiles").symlink_to(layout.profiles)


def refuse_links(path: str) -> None:
    """See that neither a directory nor any above it is a symbolic link.

    Items' names would otherwise lead elsewhere when the link changes.

    Raises:
        FileError: One is.
    """
    for part in _upwards(path):
        if os.path.islink(part):
            raise FileError(
                f"the path `{part}' is a symlink; "
                "this is not allowed for the store and its parent directories"
            )


def _upwards(path: str) -> Iterator[str]:
    while path != "/":
        yield path
        path = os.path.dirname(path)
