# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing what items contain with the hashes that are registered.

Store workers hash, in the background. An item that seems damaged is looked at
again under its lock, since somebody may be repairing it just then. Entry point:
`ContentCheck.check`.
"""

from dataclasses import dataclass

from locker.pathlocks import PathLocks
from store.database import StoreDatabase
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.paths import StorePath
from store.worker.client import StoreWorkers

NO_HASH = Digest(HashAlgorithm.SHA256, bytes(32))
"""What is registered where the hash is not known."""


@dataclass(frozen=True, slots=True)
class Content:
    """What came of looking at an item.

    Attributes:
        path: The item.
        expected: The hash that was registered; None where that is not known.
        actual: The hash found; None where there is none.
        size: Bytes of the archive form found.
        hash_added: Whether the hash was not registered, and is now.
        size_added: Whether the size was not registered, and is now.
        problem: Why no hash was found; empty where one was, or the item is gone.
    """

    path: StorePath
    expected: Digest | None = None
    actual: Digest | None = None
    size: int = 0
    hash_added: bool = False
    size_added: bool = False
    problem: str = ""

    @property
    def modified(self) -> bool:
        """Whether it was read, and is not what was registered."""
        return self.actual is not None and self.actual != self.expected

    @property
    def sound(self) -> bool:
        """Whether nothing has to be done about it."""
        return not self.modified and not self.problem


class ContentCheck:
    """Compares items with what is registered.

    Args:
        database: What is registered.
        workers: Hash.
        locks: The locks of items.
        store_fd: The store.
    """

    def __init__(
        self, database: StoreDatabase, workers: StoreWorkers, locks: PathLocks, store_fd: int
    ) -> None:
        self._database = database
        self._workers = workers
        self._locks = locks
        self._store_fd = store_fd

    async def check(self, path: StorePath) -> Content:
        """Look at an item, and register hash or size where they are missing."""
        content = await self._look(path)
        if content.sound:
            return content
        async with self._locks.try_hold([path]) as held:
            # Whoever has it may build for hours; then what was seen has to do.
            if held is None:
                return content
            held.delete_on_release()
            return await self._look(path)

    async def _look(self, path: StorePath) -> Content:
        try:
            info = self._database.path_info(path)
            name = path.rpartition("/")[2]
            actual, size = await self._workers.hash_path(self._store_fd, name, background=True)
            return await self._complete(info, actual, size)
        except StoreError as error:
            # A collector deletes what it likes meanwhile.
            problem = error.message if self._database.is_valid(path) else ""
            return Content(path, problem=problem)

    async def _complete(self, info: PathInfo, actual: Digest, size: int) -> Content:
        """Register what is missing of an item, if the rest is right."""
        expected = actual if info.nar_hash == NO_HASH else info.nar_hash
        content = Content(
            info.path,
            expected,
            actual,
            size,
            hash_added=info.nar_hash == NO_HASH,
            size_added=not info.nar_size and actual == expected,
        )
        if content.hash_added or content.size_added:
            await self._database.update_hash(info.path, actual, size)
        return content
