# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting what builds leave behind, while the next ones already run.

What holds next to nothing is deleted at once. All other trees are deleted by the store
workers, through directory descriptors; such a tree gives up its name at once, before the
locks are released under which it was made: the name may be another daemon's next.
"""

import os
import secrets
from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from builder.directories import inner_directories, opened
from store.bare_trees import delete_bare_tree
from store.worker.client import StoreWorkers

log = structlog.get_logger("builder")

_PRECEDENCE = 0.01
"""Seconds for which others go first; what several builds leave meanwhile is deleted at once."""

Delete = Callable[[str], Awaitable[object]]


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
        self._discarded: list[str] = []
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
        """Free the places of trees, and have them deleted once others have begun to build."""
        for path in paths:
            if delete_bare_tree(path, inner_directories(path)):
                continue
            aside = f"{os.path.dirname(path)}/.discarded-{secrets.token_hex(8)}"
            try:
                os.rename(path, aside)
            except FileNotFoundError:
                continue  # the build failed before it was made
            except OSError:
                log.exception("not_deleted", path=path)
                continue
            self._discarded.append(aside)
            self._wanted.set()

    def _take(self) -> list[str]:
        taken, self._discarded = self._discarded, []
        self._wanted = trio.Event()
        return taken

    async def vacate(self, path: str) -> None:
        """Return when nothing lies at a path any more."""
        if _exists(path):
            await self._delete(path)

    async def _remove(self, trees: Iterable[str]) -> None:
        with trio.CancelScope(shield=True):
            for path in trees:
                await self._remove_tree(path)

    async def _remove_tree(self, path: str) -> None:
        try:
            await self._delete(path)
        except Exception:
            # It is in nobody's way; in the store, a garbage collection tries again.
            log.exception("not_deleted", path=path)


def _exists(path: str) -> bool:
    return os.path.lexists(path)
