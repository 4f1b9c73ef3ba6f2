# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting what builds leave behind, while the next ones already run.

Most builds leave directories that are empty, or hold nothing but the places
where inputs were mounted: these are removed at once. Anything else is deleted by
the store workers, through directory descriptors. Who needs the place of a tree
that is still being deleted waits for that.
"""

import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import structlog
import trio

from builder.directories import BuildDirectories, opened
from store.worker.client import StoreWorkers

log = structlog.get_logger("builder")

Delete = Callable[[str], Awaitable[object]]

FEW_PLACES = 32
"""Mount places that are looked for by name; with more, the workers are asked at once."""


def tree_deleter(workers: StoreWorkers) -> Delete:
    """Return what deletes a tree by its path; what is above the tree must be ours alone."""

    async def delete(path: str) -> None:
        directory, _, name = path.rpartition("/")
        with opened(directory or "/") as fd:
            await workers.delete_tree(fd, name)

    return delete


class Cleaner:
    """Deletes trees in the background.

    Args:
        delete: Deletes a tree whose path is given, as far as it exists.
    """

    def __init__(self, delete: Delete) -> None:
        self._delete = delete
        self._under_way: dict[str, trio.Event] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Delete until cancelled; what was begun is finished."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def discard(self, left: BuildDirectories, places: Iterable[str], *, keep_top: bool) -> None:
        """Have the directories of a build deleted.

        Args:
            left: The directories.
            places: The names of the inputs that were mounted beside the outputs.
            keep_top: Whether the outermost build directory is kept for the user.
        """
        if not _remove_private(left, places):
            self._discard_tree(left.private)
        if not keep_top and not _remove_top(left):
            self._discard_tree(left.top)

    async def vacate(self, path: str) -> None:
        """Return when nothing lies at a path any more."""
        event = self._under_way.get(path)
        if event is not None:
            await event.wait()
        if _exists(path):
            await self._delete(path)

    def _discard_tree(self, path: str) -> None:
        assert self._nursery is not None, "the cleaner runs before anything is built"
        self._under_way[path] = trio.Event()
        self._nursery.start_soon(self._remove, path)

    async def _remove(self, path: str) -> None:
        try:
            with trio.CancelScope(shield=True):
                await self._delete(path)
        except Exception:
            # What could not be deleted is in nobody's way: the next build of the
            # same derivation tries again, and so does a garbage collection.
            log.exception("not_deleted", path=path)
        finally:
            self._under_way.pop(path).set()


def _remove_top(left: BuildDirectories) -> bool:
    """Remove the build directories if they are empty; tell whether they were."""
    with suppress(OSError), opened(left.top) as fd:
        if left.workplace.temporary is not None:
            os.rmdir("tmp", dir_fd=fd)
            os.rmdir("top", dir_fd=fd)
        os.rmdir(left.top)
        return True
    return False


def _remove_private(left: BuildDirectories, places: Iterable[str]) -> bool:
    """Remove the private directory if only mount places are in it; tell whether that was so."""
    with suppress(OSError), opened(left.private) as fd:
        if left.workplace.temporary is not None and not _remove_places(fd, list(places)):
            return False
        os.rmdir(left.private)
        return True
    return False


def _remove_places(private: int, places: list[str]) -> bool:
    if len(places) > FEW_PLACES:
        return False
    for name in places:
        _remove_place(private, f"store/{name}")
    os.rmdir("store", dir_fd=private)
    return True


def _remove_place(private: int, name: str) -> None:
    # "store" is a directory that was made here and that no builder could replace.
    try:
        os.unlink(name, dir_fd=private)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=private)


def _exists(path: str) -> bool:
    return os.path.lexists(path)
