# SPDX-License-Identifier: GPL-3.0-or-later
"""Deduplication of files."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import links as module
from store.errors import FileError
from store.hashes import Digest
from store.links import MINIMUM_SIZE, Links, open_links, sweep_links
from store.nar.hash import nar_hash_of


@pytest.fixture
def store_fd(tmp_path: Path) -> Iterator[int]:
    """A descriptor of an empty store."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def links_fd(store_fd: int) -> Iterator[int]:
    """A descriptor of its links."""
    fd = open_links(store_fd)
    yield fd
    os.close(fd)


def make(path: Path, content: bytes = b"x" * MINIMUM_SIZE) -> Path:
    """Make a canonical file."""
    path.write_bytes(content)
    path.chmod(0o444)
    os.utime(path, (1, 1))
    return path


def deduplicate(links_fd: int, store_fd: int, path: Path) -> int:
    """Deduplicate a file of the store."""
    digest, _ = nar_hash_of(store_fd, path.name)
    fd = os.open(path, os.O_RDONLY)
    try:
        return Links(links_fd).deduplicate(store_fd, path.name, fd, digest)
    finally:
        os.close(fd)


def test_equal_files_become_one(tmp_path: Path, store_fd: int, links_fd: int):
    """The first is linked, the second replaced, and nothing else is left."""
    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    blocks = second.stat().st_blocks
    assert deduplicate(links_fd, store_fd, first) == 0
    assert deduplicate(links_fd, store_fd, second) == blocks * 512
    assert deduplicate(links_fd, store_fd, second) == 0
    assert first.stat().st_ino == second.stat().st_ino
    assert os.listdir(links_fd) == [nar_hash_of(store_fd, "first")[0].base32]


def test_the_executable_bit_matters(tmp_path: Path, store_fd: int, links_fd: int):
    """Files that differ in it stay apart."""
    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    second.chmod(0o555)
    deduplicate(links_fd, store_fd, first)
    deduplicate(links_fd, store_fd, second)
    assert first.stat().st_ino != second.stat().st_ino


def test_small_files_are_left_alone(tmp_path: Path, store_fd: int, links_fd: int):
    """They would fill the directory and save little."""
    deduplicate(links_fd, store_fd, make(tmp_path / "f", b"x" * (MINIMUM_SIZE - 1)))
    assert os.listdir(links_fd) == []


def test_a_damaged_link_is_replaced(tmp_path: Path, store_fd: int, links_fd: int):
    """One of another size cannot be what its name says."""
    file = make(tmp_path / "f")
    make(tmp_path / ".links" / nar_hash_of(store_fd, "f")[0].base32, b"short")
    deduplicate(links_fd, store_fd, file)
    assert os.stat(os.listdir(links_fd)[0], dir_fd=links_fd).st_ino == file.stat().st_ino


@pytest.mark.parametrize("number", [errno.EMLINK, errno.ENOSPC])
@pytest.mark.parametrize("second", [False, True])
def test_limits_of_the_file_system_only_cost_space(
    tmp_path: Path,
    store_fd: int,
    links_fd: int,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    second: bool,
):
    """A file that can have no more links, or a directory no more names, is no error."""
    if second:
        deduplicate(links_fd, store_fd, make(tmp_path / "first"))
    inode = make(tmp_path / "f").stat().st_ino

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(
        module.os if second else module, "link" if second else "link_opened", refuse
    )
    assert deduplicate(links_fd, store_fd, tmp_path / "f") == 0
    assert (tmp_path / "f").stat().st_ino == inode
    assert len(os.listdir(links_fd)) == int(second)


def test_a_failed_exchange_leaves_no_temporary_link(
    tmp_path: Path, store_fd: int, links_fd: int, monkeypatch: pytest.MonkeyPatch
):
    """And the file as it was."""
    deduplicate(links_fd, store_fd, make(tmp_path / "first"))
    make(tmp_path / "f")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(module.os, "rename", refuse)
    with pytest.raises(OSError, match="broken disk"):
        deduplicate(links_fd, store_fd, tmp_path / "f")
    assert len(os.listdir(links_fd)) == 1


def test_directories_stay_canonical(tmp_path: Path, store_fd: int, links_fd: int):
    """Though their entries are replaced."""
    item = tmp_path / "item"
    (item / "sub").mkdir(parents=True)
    digests: list[tuple[tuple[bytes, ...], Digest]] = []
    for where in (("a",), ("sub", "b"), ("sub", "c")):
        make(item.joinpath(*where))
        fd = os.open(item.joinpath(*where[:-1]), os.O_RDONLY)
        digests.append((tuple(map(os.fsencode, where)), nar_hash_of(fd, where[-1])[0]))
        os.close(fd)
    for directory in (item / "sub", item):
        os.utime(directory, (1, 1))
        directory.chmod(0o555)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert Links(links_fd).deduplicate_tree(store_fd, "item", digests) > 0
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert len({(item / name).stat().st_ino for name in ("a", "sub/b", "sub/c")}) == 1
    for directory in (item / "sub", item):
        assert directory.stat().st_mtime_ns == 1_000_000_000
        assert directory.stat().st_mode & 0o777 == 0o555


def test_only_links_of_dead_processes_are_swept(links_fd: int):
    """Others may be about to be put into place."""
    for name in (f".tmp-link-{os.getpid()}-1", ".tmp-link-4194304-2", ".tmp-link-x", "other"):
        os.close(os.open(name, os.O_CREAT, dir_fd=links_fd))
    assert sweep_links(links_fd) == 2
    assert sorted(os.listdir(links_fd)) == [f".tmp-link-{os.getpid()}-1", "other"]


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path, store_fd: int):
    """Deduplication cannot work then."""
    (tmp_path / ".links").touch()
    with pytest.raises(FileError, match=r"`\.links' in the store is not a directory"):
        open_links(store_fd)
