# SPDX-License-Identifier: GPL-3.0-or-later
"""Deduplicating items that are in the store already."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import sharing as module
from store.errors import FileError
from store.links import MINIMUM_SIZE, open_links
from store.nar.hash import nar_hash_of
from store.sharing import KnownInodes, Shared, share_files, write_inodes

BIG = b"x" * MINIMUM_SIZE


class Shelf:
    """A store of files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self.links = open_links(self.fd)

    def close(self) -> None:
        """Close the directories."""
        os.close(self.fd)
        os.close(self.links)

    def share(self, name: str, shared: Shared | None = None) -> Shared:
        """Deduplicate an item, with an index made for it."""
        shared = shared or Shared()
        index = os.memfd_create("index")
        try:
            write_inodes(self.links, index)
            with closing(KnownInodes(index)) as known:
                share_files(self.fd, name, self.links, known, shared)
        finally:
            os.close(index)
        return shared

    def seal(self, name: str) -> None:
        """Give an item canonical metadata."""
        top = self.path / name
        for path in (top, *top.rglob("*")):
            os.utime(path, (1, 1), follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """An empty store."""
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.close()


def make_tree(shelf: Shelf, name: str) -> None:
    """Make an item with files worth sharing, and others."""
    top = shelf.path / name
    (top / "sub" / "deep").mkdir(parents=True)
    for where in ("a", "sub/b", "sub/deep/c"):
        (top / where).write_bytes(BIG)
    (top / "different").write_bytes(BIG + b"y")
    (top / "small").write_bytes(b"x")
    (top / "link").symlink_to("a")
    shelf.seal(name)


@pytest.mark.usefixtures("no_leaks")
def test_equal_files_of_trees_become_one(shelf: Shelf):
    """Archives and metadata stay what they were."""
    for name in ("one", "two"):
        make_tree(shelf, name)
    before = nar_hash_of(shelf.fd, "one")
    assert shelf.share("one") == Shared(2, 2 * MINIMUM_SIZE)
    assert shelf.share("two") == Shared(4, 4 * MINIMUM_SIZE + 1)
    assert nar_hash_of(shelf.fd, "one") == before == nar_hash_of(shelf.fd, "two")
    same = [shelf.path / item / where for item in ("one", "two") for where in ("a", "sub/b")]
    assert len({path.stat().st_ino for path in same}) == 1
    assert len(os.listdir(shelf.links)) == 2
    for path in (shelf.path / "two", *(shelf.path / "two").rglob("*")):
        assert path.lstat().st_mtime_ns == 1_000_000_000
        assert path.is_symlink() or not path.stat().st_mode & 0o222


def test_what_is_linked_already_is_not_read(shelf: Shelf, monkeypatch: pytest.MonkeyPatch):
    """Known by its inode."""
    make_tree(shelf, "one")
    (shelf.path / "file").write_bytes(BIG)
    shelf.seal("file")
    for name in ("one", "file"):
        shelf.share(name)

    def refuse(*_arguments: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(module, "_archive_hash", refuse)
    assert shelf.share("one") == shelf.share("file") == Shared()


def test_an_item_that_is_a_file_is_shared(shelf: Shelf):
    """The store's own directory is not touched."""
    mode = shelf.path.stat().st_mode
    for name in ("one", "two"):
        (shelf.path / name).write_bytes(BIG)
        shelf.seal(name)
        shelf.share(name)
    assert (shelf.path / "one").stat().st_ino == (shelf.path / "two").stat().st_ino
    assert shelf.path.stat().st_mode == mode


def test_writable_files_are_named_and_left_alone(shelf: Shelf):
    """At the top or below."""
    make_tree(shelf, "tree")
    (shelf.path / "tree" / "sub" / "b").chmod(0o644)
    (shelf.path / "file").write_bytes(BIG)
    assert shelf.share("tree") == Shared(1, MINIMUM_SIZE, ["tree/sub/b"])
    assert shelf.share("file") == Shared(0, 0, ["file"])


def test_what_is_no_file_is_passed_over(shelf: Shelf):
    """Links lead nowhere, pipes are not opened."""
    (shelf.path / "tree").mkdir()
    (shelf.path / "tree" / "up").symlink_to("..")
    os.mkfifo(shelf.path / "tree" / "pipe")
    (shelf.path / "link").symlink_to("tree")
    assert shelf.share("tree") == shelf.share("link") == Shared()


def test_an_item_that_was_replaced_meanwhile_is_left_alone(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    """The name has to lead to what was hashed."""
    for name in ("one", "two"):
        (shelf.path / name).write_bytes(BIG)
        shelf.seal(name)
    shelf.share("one")
    archive_hash = module._archive_hash

    def replace(fd: int, name: str) -> object:
        digest = archive_hash(fd, name)
        (shelf.path / "new").write_bytes(b"other content")
        (shelf.path / "new").rename(shelf.path / name)
        return digest

    monkeypatch.setattr(module, "_archive_hash", replace)
    assert shelf.share("two") == Shared()
    assert (shelf.path / "two").read_bytes() == b"other content"


def test_what_becomes_shorter_is_an_error_that_keeps_the_rest(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    """What was shared before counts, and directories are canonical all the same."""
    make_tree(shelf, "one")
    make_tree(shelf, "two")
    shelf.share("one")
    readv, calls = os.readv, []

    def read_less(fd: int, buffers: list[memoryview]) -> int:
        calls.append(fd)
        return readv(fd, buffers) if len(calls) == 1 else 0

    monkeypatch.setattr(module.os, "readv", read_less)
    shared = Shared()
    with pytest.raises(FileError, match="became shorter"):
        shelf.share("two", shared)
    assert shared.files == 1
    assert all(p.stat().st_mode & 0o777 == 0o555 for p in (shelf.path / "two", shelf.path / "one"))


def test_an_index_that_was_cut_is_refused():
    """Rather than read beyond its end."""
    index = os.memfd_create("index")
    os.write(index, b"123")
    with pytest.raises(FileError, match="cut short"):
        KnownInodes(index)
    os.close(index)


@given(st.sets(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 2**64 - 1))
def test_known_inodes_are_those_written(inodes: set[int], other: int):
    """All of them, and no others."""
    index = os.memfd_create("index")
    os.write(index, b"".join(inode.to_bytes(8, "little") for inode in sorted(inodes)))
    with closing(KnownInodes(index)) as known:
        assert all(inode in known for inode in inodes)
        assert (other in known) == (other in inodes)
    os.close(index)
