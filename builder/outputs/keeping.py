# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping what a failed build left, for the user who asked for it.

A builder may have left anything there: hard links, set-id files, a tree that it
made to be walked into. Its processes are gone by now, and everything is reached
through directory descriptors; a tree with a file that has a second link changes
hands no further than that file (CVE-2021-27851).
"""

import os
from collections.abc import Awaitable, Callable

import trio

from builder.directories import BuildDirectories, opened, release_kept
from builder.events import Level, Message
from builder.scheduling.jobs import Job
from store.errors import FileError
from store.files import chown_tree
from store.paths import StorePath


class Keeper:
    """Keeps build directories and outputs.

    Args:
        remove: Deletes a tree, as far as it exists.
    """

    def __init__(self, remove: Callable[[str], Awaitable[object]]) -> None:
        self._remove = remove

    async def keep(self, job: Job, directories: BuildDirectories) -> None:
        """Keep the build directory, and tell the job's audience where it is."""
        owner = _owner(job)
        if owner is not None:
            try:
                await trio.to_thread.run_sync(_give, directories, owner)
            except (FileError, OSError) as error:
                path = directories.workplace.build
                text = f"cannot change ownership of build directory '{path}': {error}"
                job.audience.tell(Message(text, Level.ERROR))
        path = _release(directories)
        job.audience.tell(Message(f"note: keeping build directory `{path}'", Level.ERROR))

    async def keep_output(self, sealed: str, output: StorePath) -> str:
        """Keep an output that differs from the valid one beside it, and return its path."""
        kept = f"{output}-check"
        await self._remove(kept)
        os.rename(sealed, kept)
        return kept


def _owner(job: Job) -> tuple[int, int] | None:
    """Return whom a kept directory is for: never root, whose files nobody asks to be given."""
    client = job.followers[0].client if job.followers else None
    if client is None or not client.uid or not client.gid:
        return None
    return client.uid, client.gid


def _give(directories: BuildDirectories, owner: tuple[int, int]) -> None:
    top, _, name = directories.workplace.build.rpartition("/")
    with opened(top) as parent:
        chown_tree(parent, name, *owner)


def _release(directories: BuildDirectories) -> str:
    top, _, name = directories.workplace.build.rpartition("/")
    with opened(top) as parent:
        # Others may look at it, as they may with the C++ daemon.
        os.chmod(name, 0o755, dir_fd=parent)  # noqa: S103 - see above
    return release_kept(directories)
