# SPDX-License-Identifier: GPL-3.0-or-later
"""Going down two trees at once: every name once, no recursion, nothing left open."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from store.descent import Descent, Level
from store.errors import FileError
from store.nar.reader import DEFAULT_LIMITS

FLAGS = os.O_RDONLY | os.O_DIRECTORY


def level(directory: Path, path: str, *names: str) -> Level:
    """Open a directory as both sides."""
    return Level(os.open(directory, FLAGS), os.open(directory, FLAGS), path, list(names))


def test_the_innermost_directory_comes_first(tmp_path: Path):
    """What is entered is gone through, and left, before what is beside it."""
    left: list[str] = []
    seen: list[str] = []
    with Descent(lambda each: left.append(each.path)) as descent:
        descent.enter(level(tmp_path, "", "late", "inner"))
        for above, name in descent:
            seen.append(above.below(name))
            if name == "inner":
                descent.enter(level(tmp_path, above.below(name), "b", "a"))
    assert seen == ["inner", "inner/a", "inner/b", "late"]
    assert left == ["inner", ""]


@pytest.mark.usefixtures("no_leaks")
def test_an_error_leaves_nothing_open(tmp_path: Path):
    """Whether it comes from an entry or at the end of a directory."""

    def fail(_: Level) -> None:
        raise OSError(0, "left")

    def go(leave: Callable[[Level], None] | None) -> None:
        with Descent(leave) as descent:
            for _ in range(3):
                descent.enter(level(tmp_path, "", "name"))
            for _, name in descent:
                assert leave is not None, name

    with pytest.raises(AssertionError, match="name"):
        go(None)
    with pytest.raises(OSError, match="left"):
        go(fail)


def test_depth_has_a_limit(tmp_path: Path):
    """That of archives: what lies deeper could not be in one."""
    with Descent() as descent:
        for _ in range(DEFAULT_LIMITS.depth):
            descent.check_depth("a/b")
            descent.enter(level(tmp_path, "a"))
        with pytest.raises(FileError, match="`a/b' lies more than"):
            descent.check_depth("a/b")
