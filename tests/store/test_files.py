# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on trees that somebody else may be changing."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from store.errors import FileError
from store.files import chown_tree, delete_tree, open_beneath, walk_opened

NOBODY = 65534


@pytest.fixture
def dirfd(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the test's directory."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("path", ["a/f", "a/../a/f"])
def test_paths_that_stay_inside_are_opened(dirfd: int, tmp_path: Path, path: str):
    """Dots that lead nowhere else do no harm."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/f").write_text("here")
    fd = open_beneath(dirfd, path, os.O_RDONLY)
    assert os.read(fd, 10) == b"here"
    os.close(fd)


@pytest.mark.parametrize("path", ["../f", "/etc/passwd", "link/f", "a/final", "a/../../f"])
def test_paths_that_lead_out_are_refused(dirfd: int, tmp_path: Path, path: str):
    """By links on the way, at the end, by dots, or by a slash."""
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a/f").touch()
    (tmp_path / "a/final").symlink_to("f")
    with pytest.raises(FileError) as caught:
        open_beneath(dirfd, path, os.O_RDONLY)
    assert caught.value.reason == "outside"


def test_a_missing_file_is_said_to_be_missing(dirfd: int):
    """And nothing else."""
    with pytest.raises(FileNotFoundError):
        open_beneath(dirfd, "a/b", os.O_RDONLY)


def test_a_tree_is_deleted_and_its_space_counted(dirfd: int, tmp_path: Path):
    """A file with another link elsewhere frees nothing."""
    tree = tmp_path / "tree/sub"
    tree.mkdir(parents=True)
    (tree / "file").write_bytes(b"x" * 10_000)
    (tmp_path / "kept").write_bytes(b"y" * 10_000)
    os.link(tmp_path / "kept", tree / "shared")
    (tree / "out").symlink_to("/etc")
    os.mkfifo(tree / "fifo")
    expected = os.lstat(tree / "file").st_blocks * 512
    expected += os.lstat(tree / "out").st_blocks * 512
    assert delete_tree(dirfd, "tree") == expected
    assert sorted(os.listdir(tmp_path)) == ["kept"]


def test_one_more_link_may_be_as_good_as_none(dirfd: int, tmp_path: Path):
    """As that among the deduplicated files."""
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    os.link(tmp_path / "file", tmp_path / "link")
    blocks = os.lstat(tmp_path / "link").st_blocks
    assert delete_tree(dirfd, "file", kept_links=1) == blocks * 512


def test_what_is_not_there_needs_no_deletion(dirfd: int):
    """It frees nothing."""
    assert delete_tree(dirfd, "missing") == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_only_an_entry_of_the_directory_is_deleted(dirfd: int, name: str):
    """No path is taken for a name."""
    with pytest.raises(FileError, match="is no name of a directory entry"):
        delete_tree(dirfd, name)


@pytest.mark.slow
def test_depth_costs_no_descriptors(dirfd: int, tmp_path: Path):
    """A tree much deeper than a process may have files open is deleted."""
    fd = os.dup(dirfd)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        child = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    delete_tree(dirfd, "d")
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
def test_a_racing_swap_never_leads_outside(dirfd: int, tmp_path: Path):
    """What lies behind links that replace directories survives (CVE-2025-46415)."""
    canary = tmp_path / "outside"
    (canary / "sub").mkdir(parents=True)
    (canary / "sub/precious").write_text("!")
    stop = threading.Event()
    attacker = threading.Thread(target=_swap_for_ever, args=(tmp_path, canary, stop))
    attacker.start()
    try:
        for _ in range(300):
            (tmp_path / "tree").mkdir(exist_ok=True)
            with suppress(FileExistsError):
                (tmp_path / "tree/sub").mkdir()
            for number in range(5):
                (tmp_path / f"tree/{number}").touch()
            delete_tree(dirfd, "tree")
            assert (canary / "sub/precious").exists()
    finally:
        stop.set()
        attacker.join()


def _swap_for_ever(base: Path, canary: Path, stop: threading.Event) -> None:
    """Exchange tree/sub for a link to the canary and back, as fast as possible."""
    while not stop.is_set():
        try:
            os.rename(base / "tree/sub", base / "aside")
            os.symlink(canary, base / "tree/sub")
            os.unlink(base / "tree/sub")
            os.rename(base / "aside", base / "tree/sub")
        except OSError:
            continue


@pytest.mark.root
def test_a_mount_in_the_tree_is_not_entered(dirfd: int, tmp_path: Path):
    """What is mounted there belongs to somebody else."""
    (tmp_path / "tree/mount").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").touch()
    subprocess.run(["mount", "--bind", tmp_path / "outside", tmp_path / "tree/mount"], check=True)
    try:
        with pytest.raises(OSError, match="cross-device") as caught:
            delete_tree(dirfd, "tree")
        assert caught.value.errno == errno.EXDEV
    finally:
        subprocess.run(["umount", tmp_path / "tree/mount"], check=True)
    assert (tmp_path / "outside/precious").exists()


def test_without_privilege_directories_are_made_deletable(tmp_path: Path):
    """A builder may have taken all rights from its own directories."""
    script = (
        "import os, sys; from store.files import delete_tree\n"
        "os.chdir(sys.argv[1]); os.makedirs('t/a/b'); open('t/a/b/f', 'w').close()\n"
        "[os.chmod(d, 0) for d in ('t/a/b', 't/a', 't')]\n"
        "delete_tree(os.open('.', os.O_RDONLY), 't'); assert os.listdir('.') == []\n"
    )
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = [*powerless, sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])


@pytest.mark.root
def test_a_tree_changes_hands(dirfd: int, tmp_path: Path):
    """Links too, and never what they point to."""
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").touch()
    (tmp_path / "outside").touch()
    (tmp_path / "tree/link").symlink_to(tmp_path / "outside")
    chown_tree(dirfd, "tree", NOBODY, NOBODY)
    for entry in ("tree", "tree/sub", "tree/sub/file", "tree/link"):
        assert os.lstat(tmp_path / entry).st_uid == NOBODY
    assert os.lstat(tmp_path / "outside").st_uid == 0


@pytest.mark.root
def test_a_file_with_several_links_does_not_change_hands(dirfd: int, tmp_path: Path):
    """One of them may be somebody's precious file."""
    (tmp_path / "precious").touch()
    (tmp_path / "tree").mkdir()
    os.link(tmp_path / "precious", tmp_path / "tree/stolen")
    with pytest.raises(FileError, match="file `tree/stolen' has several hard links") as caught:
        chown_tree(dirfd, "tree", NOBODY, NOBODY)
    assert caught.value.reason == "hard-link"
    assert os.lstat(tmp_path / "precious").st_uid == 0


@pytest.mark.root
def test_links_within_a_tree_change_hands_with_it(dirfd: int, tmp_path: Path):
    """They are as good as one file, unless it is another user's than the tree."""
    for tree in ("tree", "stolen"):
        (tmp_path / tree / "sub").mkdir(parents=True)
        (tmp_path / tree / "file").touch()
        os.link(tmp_path / tree / "file", tmp_path / tree / "sub/link")
    chown_tree(dirfd, "tree", NOBODY, NOBODY)
    assert os.lstat(tmp_path / "tree/sub/link").st_uid == NOBODY
    os.chown(tmp_path / "stolen/file", 4711, 4711)
    with pytest.raises(FileError):
        chown_tree(dirfd, "stolen", NOBODY, NOBODY)
    assert os.lstat(tmp_path / "stolen/file").st_uid == 4711


def test_a_walk_sees_everything_bottom_up(dirfd: int, tmp_path: Path):
    """Directories come after what is in them."""
    (tmp_path / "t/b").mkdir(parents=True)
    (tmp_path / "t/b/x").touch()
    os.mkfifo(tmp_path / "t/a")
    seen: list[tuple[str, int]] = []

    def note(_fd: int, status: os.stat_result, path: str) -> None:
        seen.append((path, stat.S_IFMT(status.st_mode)))

    walk_opened(dirfd, "t", note)
    assert seen == [
        ("t/a", stat.S_IFIFO),
        ("t/b/x", stat.S_IFREG),
        ("t/b", stat.S_IFDIR),
        ("t", stat.S_IFDIR),
    ]


def test_a_walk_has_a_limit_and_leaks_nothing(dirfd: int, tmp_path: Path):
    """Too deep a tree is refused."""
    (tmp_path / "/".join("d" * 12)).mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    ignore: Callable[..., None] = lambda *_: None  # noqa: E731 - a visitor that does nothing
    with pytest.raises(FileError, match="nested too deep"):
        walk_opened(dirfd, "d", ignore, max_depth=10)
    assert len(os.listdir("/proc/self/fd")) == before
