# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees that hold next to nothing are deleted at once; all others are left to the workers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.bare_trees import delete_bare_tree
from store.errors import FileError


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    """Give a descriptor of the test's directory."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def make_build(tmp_path: Path) -> Path:
    """Make what a build leaves that needed nothing: directories, and mount points of inputs."""
    store = tmp_path / "x.drv.chroot" / "store"
    store.mkdir(parents=True)
    (store / "directory-input").mkdir()
    (store / "file-input").touch()
    return store.parent


def test_what_a_clean_build_leaves_is_deleted(parent: int, tmp_path: Path):
    """Empty files and directories, three levels deep."""
    tree = make_build(tmp_path)
    assert delete_bare_tree(parent, tree.name)
    assert not tree.exists()


def test_a_file_with_content_is_left(parent: int, tmp_path: Path):
    """Its deletion might take long."""
    tree = make_build(tmp_path)
    (tree / "store" / "output").write_text("content")
    assert not delete_bare_tree(parent, tree.name)
    assert (tree / "store" / "output").read_text() == "content"


def test_a_link_is_neither_followed_nor_deleted(parent: int, tmp_path: Path):
    """Neither as the tree itself nor in it."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "inner").mkdir(parents=True)
    tree = make_build(tmp_path)
    (tree / "store" / "link").symlink_to(elsewhere)
    (tmp_path / "link").symlink_to(elsewhere)
    assert not delete_bare_tree(parent, tree.name)
    assert not delete_bare_tree(parent, "link")
    assert (elsewhere / "inner").exists()


def test_a_tree_of_many_entries_is_left(parent: int, tmp_path: Path):
    """However they are spread."""
    for outer in range(10):
        for inner in range(10):
            (tmp_path / "tree" / f"{outer}" / f"{inner}").mkdir(parents=True)
    assert not delete_bare_tree(parent, "tree")
    assert (tmp_path / "tree").exists()


def test_a_deep_tree_is_left(parent: int, tmp_path: Path):
    """Nothing is gained by going deep here."""
    (tmp_path / "1" / "2" / "3" / "4" / "5").mkdir(parents=True)
    assert not delete_bare_tree(parent, "1")
    assert (tmp_path / "1").exists()


def test_what_is_absent_is_left_to_others(parent: int):
    """They know whether that is an error."""
    assert not delete_bare_tree(parent, "absent")


def test_a_path_is_refused(parent: int):
    """A name has one component."""
    with pytest.raises(FileError):
        delete_bare_tree(parent, "a/b")
