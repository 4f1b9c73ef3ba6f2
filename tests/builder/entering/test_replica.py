# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of kept build directories, whose owners may have put anything there."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.entering.replica import replicate
from store.errors import FileError

OWN = frozenset((os.geteuid(),))
ALICE, BUILDER = 4711, 64301

pytestmark = pytest.mark.usefixtures("no_leaks")


def _nothing() -> None:
    """Check nothing."""


def copy(
    source: Path,
    target: Path,
    owners: frozenset[int] = OWN,
    recipient: tuple[int, int] | None = None,
    check: Callable[[], None] = _nothing,
) -> None:
    """Copy a directory into a new one."""
    target.mkdir()
    fds = [os.open(each, os.O_RDONLY | os.O_DIRECTORY) for each in (source, target)]
    try:
        replicate(fds[0], fds[1], owners, recipient, check)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of which a shell wants a copy."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    return tree


def test_times_modes_links_and_holes_are_kept(tree: Path, tmp_path: Path):
    """What make compares, and what fills disks."""
    (tree / "file").write_bytes(b"text")
    (tree / "file").chmod(0o4751)
    os.link(tree / "file", tree / "sub/hard")
    (tree / "sub/link").symlink_to("/nowhere")
    os.mkfifo(tree / "fifo", 0o600)
    with (tree / "holes").open("wb") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), b"data", 1 << 39)
    for name in ("file", "sub"):
        os.utime(tree / name, ns=(1, 1_234_567_890_123_456_789))
    (tree / "sub").chmod(0o511)
    copied = tmp_path / "copy"
    copy(tree, copied)
    assert sorted(os.listdir(copied)) == ["fifo", "file", "holes", "sub"]
    status = (copied / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o751, 2)
    assert os.path.samefile(copied / "file", copied / "sub/hard")
    assert not os.path.samefile(copied / "file", tree / "file")
    assert status.st_mtime_ns == (copied / "sub").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert stat.S_IMODE((copied / "sub").stat().st_mode) == 0o511
    assert os.readlink(copied / "sub/link") == "/nowhere"
    assert stat.S_ISFIFO((copied / "fifo").stat().st_mode)
    holes = (copied / "holes").stat()
    assert holes.st_size == 1 << 40
    assert holes.st_blocks * 512 < 1 << 20
    with (copied / "holes").open("rb") as file:
        assert os.pread(file.fileno(), 6, (1 << 39) - 1) == b"\0data\0"
    for place in (tree, copied):
        (place / "sub").chmod(0o755)


def test_sockets_are_left_out(tree: Path, tmp_path: Path):
    """Who listened is dead."""
    with socket.socket(socket.AF_UNIX) as sock:
        fd = os.open(tree, os.O_PATH)
        sock.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    copy(tree, tmp_path / "copy")
    assert os.listdir(tmp_path / "copy") == ["sub"]


@pytest.mark.root
def test_copies_belong_to_the_recipient_and_originals_to_who_had_them(tree: Path, tmp_path: Path):
    """All kinds of files, and directories."""
    (tree / "sub/file").touch()
    (tree / "sub/link").symlink_to("/etc/passwd")
    os.mkfifo(tree / "sub/fifo")
    entries = ["sub", "sub/file", "sub/link", "sub/fifo"]
    for entry in entries:
        os.chown(tree / entry, ALICE, ALICE, follow_symlinks=False)
    copy(tree, tmp_path / "copy", frozenset((ALICE,)), (BUILDER, BUILDER))
    assert {os.lstat(tmp_path / "copy" / entry).st_uid for entry in entries} == {BUILDER}
    assert {os.lstat(tree / entry).st_uid for entry in entries} == {ALICE}
    assert os.stat("/etc/passwd").st_uid == 0


@pytest.mark.root
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_belongs_to_others_is_refused(tree: Path, tmp_path: Path, kind: str):
    """Who owns a tree may have moved a file of root's into it, to have a copy."""
    os.chown(tree / "sub", ALICE, ALICE)
    victim = tree / "sub/victim"
    match kind:
        case "file":
            victim.write_text("secret")
        case "directory":
            victim.mkdir()
        case _:
            victim.symlink_to("x")
    with pytest.raises(FileError, match=r"`sub/victim' in the kept .* is user 0's"):
        copy(tree, tmp_path / "copy", frozenset((ALICE,)))


def test_copying_can_be_ended(tree: Path, tmp_path: Path):
    """Between two entries."""

    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(tree, tmp_path / "copy", check=end)
