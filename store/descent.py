# SPDX-License-Identifier: GPL-3.0-or-later
"""Going down a tree and its copy at once, by descriptors and without recursion.

However deep a tree is, this process's stack is not what ends; and at any time as many
directories are open as lie in each other. Entry point: `Descent`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from store.errors import FileError
from store.nar.reader import DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class Level:
    """A directory that is being copied, and the names in it that are still to come.

    `path` is what it is called in messages; nothing for one without a name.
    """

    source: int
    target: int
    path: str
    names: list[str]

    def below(self, name: str) -> str:
        """Give the path of an entry."""
        return f"{self.path}/{name}" if self.path else name

    def close(self) -> None:
        """Close both directories."""
        os.close(self.source)
        os.close(self.target)


class Descent:
    """The directories that are being copied; closes them at its end.

    Iterating gives each name that is left with its directory, from the innermost one;
    whoever finds a directory there enters it.

    Args:
        leave: Called with each directory once it is copied.
    """

    def __init__(self, leave: Callable[[Level], object] | None = None) -> None:
        self._leave = leave
        self._levels: list[Level] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._levels:
            self._levels.pop().close()

    def check_depth(self, path: str) -> None:
        """Refuse one more directory inside the others if that is too many.

        Raises:
            FileError: It is.
        """
        if len(self._levels) == DEFAULT_LIMITS.depth:
            raise FileError(f"`{path}' lies more than {DEFAULT_LIMITS.depth} directories deep")

    def enter(self, level: Level) -> None:
        """Go on with a directory, whose descriptors are this object's from here on."""
        self._levels.append(level)

    def __iter__(self) -> Iterator[tuple[Level, str]]:
        while self._levels:
            level = self._levels[-1]
            if level.names:
                yield level, level.names.pop()
            else:
                self._end(self._levels.pop())

    def _end(self, level: Level) -> None:
        try:
            if self._leave is not None:
                self._leave(level)
        finally:
            level.close()
