# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping what a failed build left, for the user who asked for it.

A builder may have left anything there: hard links, set-id files, a tree that it
made to be walked into. Its processes are gone by now, and everything is reached
through directory descriptors; a tree with a file that has a link elsewhere changes
hands no further than that file (CVE-2021-27851).
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog
import trio

from builder.directories import BuildDirectories, opened, release_kept
from builder.events import Level, Message
from builder.outputs.kept import UNKNOWN, KeptBuild
from builder.scheduling.jobs import Job
from store.errors import DatabaseError, FileError
from store.files import chown_tree
from store.paths import StorePath
from store.syscalls import exchange_names

log = structlog.get_logger("builder")


class Keeper:
    """Keeps build directories and outputs.

    Args:
        remove: Deletes a tree, as far as it exists.
        record: Remembers where a directory is.
    """

    def __init__(
        self, remove: Callable[[str], Awaitable[object]], record: Callable[[KeptBuild], None]
    ) -> None:
        self._remove = remove
        self._record = record

    async def keep(self, job: Job, directories: BuildDirectories) -> None:
        """Keep the build directory, and tell the job's audience where it is."""
        uid, gid = _owner(job)
        kept = KeptBuild(job.path, directories.top, uid, gid, UNKNOWN)
        holder = await self._hand_over(job, kept, directories)
        path = release_kept(directories)
        await self._remember(replace(kept, holder=holder))
        job.audience.tell(Message(f"note: keeping build directory `{path}'", Level.ERROR))

    async def keep_entered(
        self, job: Job, earlier: KeptBuild, fd: int, directories: BuildDirectories
    ) -> str:
        """Keep what became of a kept directory's copy, in its place if it is still there.

        Args:
            job: Stands for who was in the copy.
            earlier: The kept directory that was copied.
            fd: Its descriptor.
            directories: The copy.

        Returns:
            Where it is kept. Unless that is the directories' own place, what is there
            afterwards is to be deleted.
        """
        holder = await self._hand_over(job, earlier, directories)
        path = await trio.to_thread.run_sync(_put_in_place, earlier.path, fd, directories)
        await self._remember(replace(earlier, path=path, holder=holder))
        return path

    async def _hand_over(self, job: Job, kept: KeptBuild, directories: BuildDirectories) -> int:
        """Give the build directory to whom it is for, if that can be; tell who has it."""
        path = directories.workplace.build
        if kept.recipient is not None:
            try:
                await trio.to_thread.run_sync(_give, path, kept.recipient)
            except (FileError, OSError) as error:
                text = f"cannot change ownership of build directory '{path}': {error}"
                job.audience.tell(Message(text, Level.ERROR))
        return _open_up(path)

    async def _remember(self, kept: KeptBuild) -> None:
        try:
            await trio.to_thread.run_sync(self._record, kept)
        except DatabaseError as error:
            # It is there all the same, only nobody can enter it by the name of the derivation.
            log.warning("kept_unrecorded", path=kept.path, error=error.message)

    async def keep_output(self, sealed: str, output: StorePath) -> str:
        """Keep an output that differs from the valid one beside it, and return its path."""
        kept = f"{output}-check"
        await self._remove(kept)
        os.rename(sealed, kept)
        return kept


def _owner(job: Job) -> tuple[int, int]:
    """Return whose build it was: the user and the group of the client that came first."""
    client = job.followers[0].client if job.followers else None
    if client is None or client.uid is None or client.gid is None:
        return UNKNOWN, UNKNOWN
    return client.uid, client.gid


def _give(path: str, recipient: tuple[int, int]) -> None:
    top, _, name = path.rpartition("/")
    with opened(top) as parent:
        chown_tree(parent, name, *recipient)


def _open_up(path: str) -> int:
    """Let others look at a build directory, as they may with the C++ daemon; tell whose it is."""
    top, _, name = path.rpartition("/")
    with opened(top) as parent:
        os.chmod(name, 0o755, dir_fd=parent)  # noqa: S103 - see above
        return os.lstat(name, dir_fd=parent).st_uid


def _put_in_place(path: str, fd: int, directories: BuildDirectories) -> str:
    """Exchange a build directory with the kept one that a descriptor is of; give its path.

    Where the kept one is not in its place any more, the other keeps its own.
    """
    above, _, name = path.rpartition("/")
    _, _, own = directories.workplace.build.rpartition("/")
    parent = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.lstat(name, dir_fd=parent), os.fstat(fd)):
            return release_kept(directories)
        with opened(directories.top) as private:
            exchange_names(private, own, parent, name)
    except OSError:
        # It is gone, or names cannot be exchanged there.
        return release_kept(directories)
    finally:
        os.close(parent)
    return path
