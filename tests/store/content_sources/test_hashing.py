# SPDX-License-Identifier: GPL-3.0-or-later
"""Hashes and looks of what lies on a medium."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.content_sources.hashing import (
    Stopped,
    hash_file,
    hash_tree,
    opened_path,
    tree_stamp,
)
from store.hashes import HashAlgorithm
from store.nar.hash import nar_hash_of


def never() -> bool:
    """Go on."""
    return False


@pytest.fixture
def dirfd(tmp_path: Path) -> Iterator[int]:
    """A directory with a tree in it."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_bytes(b"x" * 3_000_000)
    (tree / "a" / "link").symlink_to("b")
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_file_is_hashed_by_all_algorithms_at_once(dirfd: int):
    """It is read once."""
    algorithms = [HashAlgorithm.SHA256, HashAlgorithm.MD5, HashAlgorithm.SHA3_512]
    with opened_path(dirfd, "tree/a/b/file") as (fd, _):
        found = hash_file(fd, algorithms, never)
    assert found is not None
    hashes, size = found
    data = b"x" * 3_000_000
    assert size == len(data)
    assert hashes == {
        HashAlgorithm.SHA256: hashlib.sha256(data).digest(),
        HashAlgorithm.MD5: hashlib.md5(data, usedforsecurity=False).digest(),
        HashAlgorithm.SHA3_512: hashlib.sha3_512(data).digest(),
    }


def test_a_file_that_changes_has_no_hash(dirfd: int, tmp_path: Path):
    """Neither what it was nor what it is."""

    def change() -> bool:
        with (tmp_path / "tree/a/b/file").open("ab") as file:
            file.write(b"more")
        return False

    with opened_path(dirfd, "tree/a/b/file") as (fd, _):
        assert hash_file(fd, [HashAlgorithm.SHA256], change) is None


def test_hashing_ends_when_told(dirfd: int):
    """Between two pieces of a file, and between two directories."""
    with opened_path(dirfd, "tree/a/b/file") as (fd, _), pytest.raises(Stopped):
        hash_file(fd, [HashAlgorithm.SHA256], lambda: True)
    for function in (hash_tree, tree_stamp):
        with pytest.raises(Stopped):
            function(dirfd, "tree", lambda: True)


def test_a_tree_has_the_hash_of_its_archive(dirfd: int):
    """And the size of that."""
    digest, size = nar_hash_of(dirfd, "tree")
    assert hash_tree(dirfd, "tree", never) == (digest.value, size)


def test_whatever_changes_in_a_tree_changes_its_stamp(dirfd: int, tmp_path: Path):
    """Contents, modes, names and links, at any depth."""
    file = tmp_path / "tree/a/b/file"
    stamps = [tree_stamp(dirfd, "tree", never)]
    assert tree_stamp(dirfd, "tree", never) == stamps[0]

    def relink() -> None:
        (tmp_path / "tree/a/link").unlink()
        (tmp_path / "tree/a/link").symlink_to("other")

    for change in (
        lambda: file.write_bytes(b"y"),
        lambda: file.chmod(0o755),
        lambda: file.rename(file.with_name("renamed")),
        (tmp_path / "tree/new").mkdir,
        relink,
    ):
        change()
        stamps.append(tree_stamp(dirfd, "tree", never))
    assert len(set(stamps)) == len(stamps)


def test_nothing_is_opened_through_links_or_out_of_its_directory(dirfd: int, tmp_path: Path):
    """The kernel sees to it."""
    (tmp_path / "out").symlink_to("tree")
    for path in ("out/a/b/file", "../x", "/etc/passwd"):
        with pytest.raises(OSError, match=r"symbolic|cross-device"), opened_path(dirfd, path):
            pass
