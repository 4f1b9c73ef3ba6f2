# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of one acquisition, a batch at a time.

Opening takes as long as locking does. So while the locker works on one batch the next is
opened, and no more than two are ever open.

Entry points: `OpenedBatches` for names, `BorrowedBatches` for descriptors of the caller.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from locker.channel import MAX_DESCRIPTORS, close_all

BATCH = MAX_DESCRIPTORS
"""Files in one request: each costs a trip to the locker."""

_Name = TypeVar("_Name")


class Batches(Protocol):
    """Where the descriptors of an acquisition come from."""

    def take(self, start: int) -> Sequence[int]:
        """Give the descriptors of the batch that starts at an index, until `drop`."""

    def drop(self, fds: Sequence[int]) -> None:
        """Take back descriptors that were sent."""

    def look_ahead(self, start: int) -> None:
        """Prepare for `take` with the same index."""

    def close(self) -> None:
        """Undo `look_ahead`."""


class OpenedBatches(Generic[_Name]):
    """Files that are opened by name, and closed as soon as they were sent."""

    def __init__(self, names: Sequence[_Name], opener: Callable[[_Name], int]) -> None:
        self._names = names
        self._opener = opener
        self._ahead: tuple[int, list[int]] = (0, [])

    def take(self, start: int) -> list[int]:
        """Give descriptors of the batch that starts at an index."""
        self.look_ahead(start)
        fds = self._ahead[1]
        self._ahead = (0, [])
        return fds

    def drop(self, fds: Sequence[int]) -> None:
        """Close descriptors that were sent."""
        close_all(fds)

    def look_ahead(self, start: int) -> None:
        """Open the batch that starts at an index, if it is not open yet."""
        if self._ahead[1] and self._ahead[0] == start:
            return
        self.close()
        fds: list[int] = []
        self._ahead = (start, fds)
        for name in self._names[start : start + BATCH]:
            fds.append(self._opener(name))  # noqa: PERF401 - what is open stays known on failure

    def close(self) -> None:
        """Close what is open."""
        fds = self._ahead[1]
        self._ahead = (0, [])
        close_all(fds)


class BorrowedBatches:
    """Descriptors that are the caller's, who may close them."""

    def __init__(self, files: Sequence[int]) -> None:
        self._files = files

    def take(self, start: int) -> Sequence[int]:
        """Give the batch that starts at an index."""
        return self._files[start : start + BATCH]

    def drop(self, fds: Sequence[int]) -> None:
        """Leave the descriptors open."""

    def look_ahead(self, start: int) -> None:
        """Need nothing."""

    def close(self) -> None:
        """Leave the descriptors open."""
