# SPDX-License-Identifier: GPL-3.0-or-later
"""The store's trash, which other collectors empty and remove as they like."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.collection.trash import Entry, Trash


@pytest.fixture
def store(tmp_path: Path) -> Iterator[int]:
    """A directory with two others in it, of which one cannot be written."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "two").chmod(0o555)
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.usefixtures("no_leaks")
def test_a_trash_that_was_removed_meanwhile_is_made_anew(tmp_path: Path, store: int):
    """What is thrown away later lies in the new one."""
    trash = Trash(store)
    found = trash.examine(["one", "two", "absent"])

    def entries() -> Iterator[Entry]:
        yield found["one"]
        shutil.rmtree(tmp_path / "trash")
        yield found["two"]

    thrown = trash.throw(entries())
    assert thrown.removed == {"one", "two"}
    assert not thrown.failed
    assert os.listdir(tmp_path) == ["trash"]
    [names] = trash.contents(10)
    assert len(names) == 1


def test_nothing_is_made_where_there_is_no_directory_to_throw_away(tmp_path: Path, store: int):
    """Files are deleted at once."""
    (tmp_path / "file").write_bytes(b"12345")
    thrown = Trash(store).throw(Trash(store).examine(["file"]).values())
    assert (thrown.removed, thrown.freed) == ({"file"}, 5)
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
