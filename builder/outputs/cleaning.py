# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting what builds leave behind, while the next ones already run.

Trees are deleted by the store workers, through directory descriptors; a build that
left nothing costs no message. Who needs the place of a tree that is still being
deleted waits for that.
"""

import os
from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from builder.directories import opened
from store.bare_trees import delete_bare_tree
from store.worker.client import StoreWorkers

log = structlog.get_logger("builder")

_PRECEDENCE = 0.002
"""Seconds that the start of another build takes, which would have to wait meanwhile."""

_Tree = tuple[str, trio.Event]
"""Its path, and what is set when it is gone."""

Delete = Callable[[str], Awaitable[object]]


def tree_deleter(workers: StoreWorkers) -> Delete:
    """Return what deletes a tree by its path; what is above the tree must be ours alone."""

    async def delete(path: str) -> None:
        directory, _, name = path.rpartition("/")
        with opened(directory or "/") as fd:
            if not delete_bare_tree(fd, name):
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
        self._discarded: list[_Tree] = []
        self._wanted = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Delete until cancelled; what was to be deleted by then still is."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            try:
                while True:
                    await self._wanted.wait()
                    await trio.sleep(_PRECEDENCE)
                    nursery.start_soon(self._remove, self._take())
            finally:
                nursery.start_soon(self._remove, self._take())

    def discard(self, paths: Iterable[str]) -> None:
        """Have trees deleted, once what waited for their build has begun."""
        for path in paths:
            deleted = self._under_way[path] = trio.Event()
            self._discarded.append((path, deleted))
        self._wanted.set()

    def _take(self) -> list[_Tree]:
        taken, self._discarded = self._discarded, []
        self._wanted = trio.Event()
        return taken

    async def vacate(self, path: str) -> None:
        """Return when nothing lies at a path any more."""
        event = self._under_way.get(path)
        if event is not None:
            await event.wait()
        if _exists(path):
            await self._delete(path)

    async def _remove(self, trees: Iterable[_Tree]) -> None:
        with trio.CancelScope(shield=True):
            for path, deleted in trees:
                await self._remove_tree(path, deleted)

    async def _remove_tree(self, path: str, deleted: trio.Event) -> None:
        try:
            await self._delete(path)
        except Exception:
            # What could not be deleted is in nobody's way: the next build of the
            # same derivation tries again, and so does a garbage collection.
            log.exception("not_deleted", path=path)
        finally:
            deleted.set()
            # A tree is gone before we hear of it: another may have had its place
            # since, and be on its way out too.
            if self._under_way.get(path) is deleted:
                del self._under_way[path]


def _exists(path: str) -> bool:
    return os.path.lexists(path)
