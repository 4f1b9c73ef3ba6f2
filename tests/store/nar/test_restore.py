# SPDX-License-Identifier: GPL-3.0-or-later

import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.errors import FileError, NarError
from store.nar.dump import dump
from store.nar.events import Content, Directory, Regular
from store.nar.restore import Restorer, restore


@pytest.fixture
def umask() -> Iterator[None]:
    """The tightest umask."""
    before = os.umask(0o777)
    yield
    os.umask(before)


def everything(path: Path) -> Iterator[Path]:
    """Yield a tree's root and all below it."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            yield from everything(inner)


def expected_mode(path: Path) -> int:
    """Return the mode that an item's file must have."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return 0o777
    executable = stat.S_ISDIR(status.st_mode) or path.name in {"run", "\udcff\udcfe"}
    return 0o555 if executable else 0o444


@pytest.mark.usefixtures("no_leaks")
def test_a_restored_tree_dumps_to_its_archive(
    tmp_path: Path, directory: int, archive_of: Any, sample: Any
):
    """Nothing is lost on the way through the disk."""
    archive = archive_of(sample)
    assert restore([archive], directory, "tree") == len(archive)
    assert b"".join(bytes(piece) for piece in dump(directory, "tree")) == archive
    assert (tmp_path / "tree" / "link").readlink() == Path("../a/run")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_tree_is_restored(
    tmp_path: Path,
    directory: int,
    archive_of: Any,
    nodes: st.SearchStrategy[Any],
    data: st.DataObject,
):
    """However its bytes are cut."""
    archive = archive_of(data.draw(nodes))
    name = f"tree{len(list(tmp_path.iterdir()))}"
    size = data.draw(st.integers(1, len(archive)))
    pieces = [archive[start : start + size] for start in range(0, len(archive), size)]
    restore(pieces, directory, name)
    assert b"".join(bytes(piece) for piece in dump(directory, name)) == archive


def test_metadata_is_canonical(tmp_path: Path, directory: int, archive_of: Any, sample: Any):
    """Modes 0444 and 0555, time of modification 1, whatever the umask lets pass."""
    restore([archive_of(sample)], directory, "tree")
    for path in everything(tmp_path / "tree"):
        status = path.lstat()
        assert stat.S_IMODE(status.st_mode) == expected_mode(path), path
        assert status.st_mtime_ns == 1_000_000_000, path
        assert status.st_nlink == 1 or path.is_dir(), path


@pytest.mark.root
@pytest.mark.usefixtures("umask")
def test_the_umask_plays_no_part(tmp_path: Path, directory: int, archive_of: Any, sample: Any):
    """The modes are set, not only asked for."""
    restore([archive_of(sample)], directory, "tree")
    for path in everything(tmp_path / "tree"):
        assert stat.S_IMODE(path.lstat().st_mode) == expected_mode(path), path


def test_a_set_group_id_bit_is_not_inherited(tmp_path: Path, archive_of: Any):
    """A directory made in one with the bit would have it too."""
    tmp_path.chmod(0o2755)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        restore([archive_of({b"d": {}})], fd, "tree")
    finally:
        os.close(fd)
    assert stat.S_IMODE((tmp_path / "tree").lstat().st_mode) == 0o555
    assert stat.S_IMODE((tmp_path / "tree" / "d").lstat().st_mode) == 0o555


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("node", [b"new", (b"new",), "target", {}])
@pytest.mark.parametrize("present", ["file", "directory", "link", "dangling"])
def test_nothing_that_is_there_is_touched(
    tmp_path: Path, directory: int, archive_of: Any, node: Any, present: str
):
    """Neither a file nor what a link leads to, not even one that leads nowhere."""
    victim = tmp_path / "victim"
    victim.write_text("old")
    there = tmp_path / "there"
    if present == "file":
        there.write_text("old")
    elif present == "directory":
        there.mkdir()
    else:
        there.symlink_to(victim if present == "link" else tmp_path / "nowhere")
    with pytest.raises(FileError, match="cannot make `there': File exists"):
        restore([archive_of(node)], directory, "there")
    assert victim.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "victim"]


@pytest.mark.usefixtures("no_leaks")
def test_a_directory_swapped_for_a_link_leads_nowhere(tmp_path: Path, directory: int):
    """What is in a directory is made by its descriptor, whatever its name means by now."""
    outside = tmp_path / "outside"
    outside.mkdir()
    with Restorer(directory, "tree") as restorer:
        restorer.apply([Directory(b""), Directory(b"d")])
        (tmp_path / "tree" / "d").rename(tmp_path / "moved")
        (tmp_path / "tree" / "d").symlink_to(outside)
        restorer.apply([Regular(b"f", executable=False, size=0)])
        assert not restorer.finished
    assert list(outside.iterdir()) == []
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["f"]


@pytest.mark.usefixtures("no_leaks")
def test_a_half_restored_tree_leaves_nothing_open(tmp_path: Path, directory: int):
    """An archive that ends in a file, deep down, leaves files but no descriptors."""
    with Restorer(directory, "tree") as restorer:
        restorer.apply([Directory(b""), Directory(b"d"), Regular(b"f", executable=False, size=9)])
        restorer.apply([Content(memoryview(b"half"))])
    assert not restorer.finished
    assert (tmp_path / "tree" / "d" / "f").read_bytes() == b"half"
    restorer.close()


@pytest.mark.usefixtures("no_leaks")
def test_a_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, directory: int, archive_of: Any
):
    """Here the limit on file sizes stands for the disk's end."""
    archive = archive_of({b"a": b"small", b"b": bytes(100_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(FileError, match="cannot make `tree/b': File too large"):
            restore([archive], directory, "tree")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "tree" / "b").stat().st_size == 4096


@pytest.mark.usefixtures("no_leaks")
def test_an_archive_must_be_whole_and_alone(directory: int, archive_of: Any):
    """Neither less nor more than one archive is restored."""
    archive = archive_of({b"a": b"content"})
    with pytest.raises(NarError, match="ends before it is complete"):
        restore([archive[:-1]], directory, "short")
    with pytest.raises(NarError, match="something follows its end"):
        restore([archive, b"x"], directory, "long")
    with pytest.raises(NarError, match="something follows its end"):
        restore([archive + b"x"], directory, "longer")


def test_a_claimed_size_takes_no_space(tmp_path: Path, directory: int):
    """Space is used as content comes, not as an archive says."""
    with Restorer(directory, "f") as restorer:
        restorer.apply([Regular(b"", executable=False, size=1 << 62)])
        restorer.apply([Content(memoryview(b"x"))])
    assert (tmp_path / "f").stat().st_size == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
def test_a_name_is_one_component(directory: int, name: str):
    """Anything else is a mistake of ours."""
    with pytest.raises(AssertionError):
        Restorer(directory, name)
