# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees that hold next to nothing are deleted at once; all others are left to the workers."""

from pathlib import Path

import pytest

from store.bare_trees import delete_bare_tree

INNER = ("absent", "store")


def make_build(tmp_path: Path) -> Path:
    """Make what a build leaves that needed nothing: directories, and mount points of inputs."""
    store = tmp_path / "x.drv.chroot" / "store"
    store.mkdir(parents=True)
    (store / "directory-input").mkdir()
    (store / "file-input").touch()
    return store.parent


@pytest.mark.parametrize("inner", [(), INNER])
def test_what_a_clean_build_leaves_is_deleted(tmp_path: Path, inner: tuple[str, ...]):
    """Empty files and directories, three levels deep, whether their names are known or not."""
    tree = make_build(tmp_path)
    assert delete_bare_tree(str(tree), inner)
    assert not tree.exists()


def test_what_lies_beside_the_known_names_is_deleted_too(tmp_path: Path):
    """Names only tell where to begin."""
    tree = make_build(tmp_path)
    (tree / "other").mkdir()
    assert delete_bare_tree(str(tree), INNER)
    assert not tree.exists()


@pytest.mark.parametrize("inner", [(), INNER])
def test_a_file_with_content_is_left(tmp_path: Path, inner: tuple[str, ...]):
    """Its deletion might take long."""
    tree = make_build(tmp_path)
    (tree / "store" / "output").write_text("content")
    assert not delete_bare_tree(str(tree), inner)
    assert (tree / "store" / "output").read_text() == "content"


def test_a_link_is_neither_followed_nor_deleted(tmp_path: Path):
    """Neither as the tree itself nor in it."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "inner").mkdir(parents=True)
    tree = make_build(tmp_path)
    (tree / "link").symlink_to(elsewhere)
    (tree / "store" / "link").symlink_to(elsewhere)
    (tmp_path / "link").symlink_to(elsewhere)
    for inner in ((), ("link",), INNER):
        assert not delete_bare_tree(str(tree), inner)
    assert not delete_bare_tree(str(tmp_path / "link"))
    assert (elsewhere / "inner").exists()


def test_a_tree_of_many_entries_is_left(tmp_path: Path):
    """However they are spread."""
    for outer in range(10):
        for inner in range(10):
            (tmp_path / "tree" / f"{outer}" / f"{inner}").mkdir(parents=True)
    assert not delete_bare_tree(str(tmp_path / "tree"))
    assert (tmp_path / "tree").exists()


def test_a_deep_tree_is_left(tmp_path: Path):
    """Nothing is gained by going deep here."""
    (tmp_path / "1" / "2" / "3" / "4" / "5").mkdir(parents=True)
    assert not delete_bare_tree(str(tmp_path / "1"))
    assert (tmp_path / "1").exists()


def test_what_is_absent_is_left_to_others(tmp_path: Path):
    """They know whether that is an error."""
    assert not delete_bare_tree(str(tmp_path / "absent"), INNER)
    assert not delete_bare_tree(str(tmp_path / "absent"))
