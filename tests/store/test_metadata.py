# SPDX-License-Identifier: GPL-3.0-or-later
"""Canonical metadata."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import FileError
from store.metadata import Canonicaliser, canonical_mode, canonicalise

BUILDER = 30_001


@pytest.fixture
def dirfd(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the test's directory."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("mode", "canonical"),
    [
        (stat.S_IFREG | 0o600, 0o444),
        (stat.S_IFREG | 0o4711, 0o555),
        (stat.S_IFREG | 0o077, 0o444),
        (stat.S_IFDIR | 0o700, 0o555),
        (stat.S_IFDIR | 0o1777, 0o555),
    ],
)
def test_only_the_owners_executable_bit_counts(mode: int, canonical: int):
    """All other bits are lost."""
    assert canonical_mode(mode) == canonical


@pytest.mark.root
def test_a_tree_becomes_ours(dirfd: int, tmp_path: Path):
    """Mode, owner, time and attributes, of links too."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/program").write_text("x")
    (tree / "sub/program").chmod(0o6755)
    (tree / "link").symlink_to("/etc/passwd")
    os.link(tree / "sub/program", tree / "hard")
    os.setxattr(tree / "sub/program", "user.note", b"x")
    for entry in (tree, *tree.rglob("*")):
        os.chown(entry, BUILDER, BUILDER, follow_symlinks=False)
    (tree / "sub/program").chmod(0o6755)
    canonicalise(dirfd, "tree", Canonicaliser(BUILDER))
    for entry in (tree, *tree.rglob("*")):
        status = entry.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0)
        assert status.st_mtime_ns == 1_000_000_000
        assert stat.S_ISLNK(status.st_mode) or stat.S_IMODE(status.st_mode) == 0o555
    assert os.listxattr(tree / "sub/program") == []
    assert os.stat("/etc/passwd").st_mtime != 1


@pytest.mark.root
def test_somebody_elses_file_is_refused(dirfd: int, tmp_path: Path):
    """In the words of the reference."""
    (tmp_path / "tree").mkdir()
    os.chown(tmp_path / "tree", BUILDER, BUILDER)
    (tmp_path / "tree/f").touch(0o600)
    with pytest.raises(FileError) as caught:
        canonicalise(dirfd, "tree", Canonicaliser(BUILDER))
    assert caught.value.message == "invalid ownership on file `tree/f'"
    assert caught.value.reason == "invalid-ownership"
    assert (tmp_path / "tree/f").stat().st_mode & 0o777 == 0o600


@pytest.mark.root
def test_a_directory_that_became_ours_is_not_taken_for_a_hard_link():
    """Directories have no second name."""
    canonicaliser = Canonicaliser(BUILDER)
    status = os.stat("/")
    canonicaliser._seen.add((status.st_dev, status.st_ino))
    with pytest.raises(FileError, match="invalid ownership"):
        canonicaliser.claim(status, "/")


def test_what_is_canonical_is_not_touched(dirfd: int, tmp_path: Path):
    """Not even its change time."""
    file = tmp_path / "f"
    file.touch()
    canonicalise(dirfd, "f", Canonicaliser())
    before = file.stat()
    canonicalise(dirfd, "f", Canonicaliser())
    assert file.stat().st_ctime_ns == before.st_ctime_ns
    assert (stat.S_IMODE(before.st_mode), before.st_mtime_ns) == (0o444, 1_000_000_000)


def test_sockets_are_refused(dirfd: int, tmp_path: Path):
    """As is whatever else no archive can hold."""
    os.mknod(tmp_path / "s", stat.S_IFSOCK | 0o600)
    with pytest.raises(FileError, match="file `s' has an unsupported type"):
        canonicalise(dirfd, "s", Canonicaliser())
