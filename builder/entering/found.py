# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding the kept directory that a client may have a copy of, and making that.

Entry points: `find_kept`, `copy_kept`; both are for threads.
"""

import os
from dataclasses import dataclass

import trio

from builder.directories import BuildDirectories, opened
from builder.entering.replica import replicate
from builder.options import Client
from builder.outputs.kept import KeptBuild, kept_of
from builder.users import BuildUser
from store.errors import StoreError
from store.paths import StorePath


@dataclass(frozen=True, slots=True)
class Found:
    """A kept directory, and a descriptor of it."""

    build: KeptBuild
    fd: int


def find_kept(index_file: str, drv: StorePath, client: Client) -> Found:
    """Open the latest directory that was kept of a derivation and that is still there.

    Args:
        index_file: `Layout.index_file`.
        drv: The derivation.
        client: Who wants it; who is not trusted may have what was kept for the same user.

    Raises:
        StoreError: There is none (reason ``not-kept``), or none for this client
            (``not-privileged``).
    """
    others = False
    for build in kept_of(index_file, drv):
        fd = _open(build)
        if fd < 0:
            continue
        if client.trusted or (client.uid is not None and client.uid == build.uid):
            return Found(build, fd)
        os.close(fd)
        others = True
    if others:
        raise StoreError(
            f"the build directory of `{drv}' was kept for another user", reason="not-privileged"
        )
    raise StoreError(
        f"no build directory of `{drv}' is kept: build it with `--keep-failed', "
        "or enter a fresh one",
        reason="not-kept",
    )


def _open(build: KeptBuild) -> int:
    """Open a kept directory, or give -1 where it is something else by now."""
    try:
        fd = os.open(build.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    if os.fstat(fd).st_uid in build.owners:
        return fd
    os.close(fd)
    return -1


def copy_kept(found: Found, directories: BuildDirectories, user: BuildUser | None) -> None:
    """Copy a kept directory into the new one of a build, until the caller is cancelled.

    Raises:
        FileError: Something in it is not its owner's.
        OSError: Something cannot be read or written.
    """
    recipient = None if user is None else (user.uid, user.gid)
    with opened(directories.workplace.build) as target:
        owners = found.build.owners
        replicate(found.fd, target, owners, recipient, trio.from_thread.check_cancelled)
