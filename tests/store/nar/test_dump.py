# SPDX-License-Identifier: GPL-3.0-or-later

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.errors import FileError
from store.nar.dump import dump, walk
from store.nar.events import Content, Directory, Regular, Symlink
from store.nar.reader import NarLimits


def dumped(directory: int, name: str | bytes) -> bytes:
    """Dump a whole tree."""
    return b"".join(bytes(piece) for piece in dump(directory, name))


@pytest.mark.usefixtures("no_leaks")
def test_a_tree_is_dumped_as_the_format_defines(
    tmp_path: Path, directory: int, make: Any, archive_of: Any, sample: Any
):
    """Names in the order of their bytes, and nothing of owners, times or other modes."""
    make(tmp_path / "tree", sample)
    assert dumped(directory, "tree") == archive_of(sample)
    assert dumped(directory, b"tree") == archive_of(sample)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_tree_is_dumped(
    tmp_path: Path,
    directory: int,
    make: Any,
    archive_of: Any,
    nodes: st.SearchStrategy[Any],
    data: st.DataObject,
):
    """Names and targets that are not UTF-8 are dumped as the bytes they are."""
    node = data.draw(nodes)
    name = f"tree{len(list(tmp_path.iterdir()))}"
    make(tmp_path / name, node)
    assert dumped(directory, name) == archive_of(node)


@pytest.mark.parametrize("node", [b"content", b"", (b"x",), "../target", {}])
def test_the_root_may_be_anything(
    tmp_path: Path, directory: int, make: Any, archive_of: Any, node: Any
):
    """A file, a link, even one that leads nowhere, and an empty directory."""
    make(tmp_path / "root", node)
    assert dumped(directory, "root") == archive_of(node)


@pytest.mark.parametrize(
    ("mode", "executable"),
    [(0o644, False), (0o444, False), (0o655, False), (0o744, True), (0o555, True), (0o4755, True)],
)
def test_only_the_owners_bit_makes_a_file_executable(
    tmp_path: Path, directory: int, mode: int, executable: bool
):
    """As in the reference daemon; the other bits count for nothing."""
    path = tmp_path / "f"
    path.touch()
    path.chmod(mode)
    assert list(walk(directory, "f")) == [Regular(b"", executable, 0)]


def test_a_large_file_is_read_in_pieces(tmp_path: Path, directory: int):
    """No piece is as large as the file, and together they are the file."""
    content = os.urandom(3_000_001)
    (tmp_path / "large").write_bytes(content)
    pieces = [bytes(event.data) for event in walk(directory, "large") if isinstance(event, Content)]
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 1 << 18


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("kind", ["socket", "pipe"])
@pytest.mark.parametrize("below", [True, False])
def test_sockets_and_pipes_are_refused(tmp_path: Path, directory: int, kind: str, below: bool):
    """The message names the file and what it is; a pipe does not make anybody wait."""
    tree = tmp_path / "tree"
    tree.mkdir()
    target = tree / "odd" if below else tmp_path / "odd"
    if kind == "pipe":
        os.mkfifo(target)
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(target))
    name, path = ("tree", "tree/odd") if below else ("odd", "odd")
    with pytest.raises(FileError) as caught:
        dumped(directory, name)
    assert str(caught.value) == f"file `{path}' has an unsupported type: it is a {kind}"
    assert caught.value.reason == "unsuitable-file"


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "word"), [(stat.S_IFCHR, "character device"), (stat.S_IFBLK, "block device")]
)
def test_devices_are_refused(tmp_path: Path, directory: int, kind: int, word: str):
    """They are not even opened, which alone may have effects."""
    os.mknod(tmp_path / "device", kind | 0o600, os.makedev(1, 3))
    with pytest.raises(FileError, match=f"it is a {word}"):
        dumped(directory, "device")


@pytest.mark.usefixtures("no_leaks")
def test_what_is_absent_is_an_error(directory: int):
    """The message names the file and the system's reason."""
    with pytest.raises(FileError, match="cannot read `absent': No such file or directory"):
        dumped(directory, "absent")


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_link_swapped_in_is_not_followed(tmp_path: Path, directory: int, kind: str):
    """Whoever changes the tree during the walk cannot lead it to what lies outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    tree = tmp_path / "tree"
    (tree / "b").mkdir(parents=True) if kind == "directory" else tree.mkdir()
    if kind == "file":
        (tree / "b").write_text("harmless")
    (tree / "a").symlink_to("x")
    events = walk(directory, "tree")
    assert next(events) == Directory(b"")
    assert next(events) == Symlink(b"a", b"x")
    (tree / "b").rename(tmp_path / "moved")
    (tree / "b").symlink_to(outside if kind == "directory" else outside / "secret")
    with pytest.raises(FileError, match="cannot read `tree/b'"):
        next(events)


@pytest.mark.usefixtures("no_leaks")
def test_a_directory_that_is_moved_away_is_still_read_where_it_is(tmp_path: Path, directory: int):
    """The walk goes by descriptors, so a name that means something else by now plays no part."""
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "f").touch()
    outside.mkdir()
    (outside / "secret").touch()
    events = walk(directory, "tree")
    assert [next(events), next(events)] == [Directory(b""), Directory(b"d")]
    (tree / "d").rename(tmp_path / "moved")
    (tree / "d").symlink_to(outside)
    assert next(events) == Regular(b"f", executable=False, size=0)
    events.close()


@pytest.mark.usefixtures("no_leaks")
def test_a_pipe_swapped_in_makes_nobody_wait(tmp_path: Path, directory: int):
    """It is opened without blocking, then refused."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").touch()
    (tree / "b").touch()
    events = walk(directory, "tree")
    assert [next(events), next(events)][1] == Regular(b"a", executable=False, size=0)
    (tree / "b").unlink()
    os.mkfifo(tree / "b")
    with pytest.raises(FileError, match="`tree/b' was replaced while it was read"):
        next(events)


@pytest.mark.usefixtures("no_leaks")
def test_a_file_that_shrinks_is_an_error(tmp_path: Path, directory: int):
    """The size is written before the content, so the content must keep to it."""
    path = tmp_path / "f"
    path.write_bytes(bytes(1 << 19))
    events = walk(directory, "f")
    next(events)
    next(events)
    os.truncate(path, 1 << 18)
    with pytest.raises(FileError, match="`f' became shorter while it was read"):
        next(events)


@pytest.mark.usefixtures("no_leaks")
def test_a_dump_may_be_abandoned(tmp_path: Path, directory: int, make: Any):
    """All directories it is in are closed."""
    make(tmp_path / "tree", {b"a": {b"b": {b"c": b"content", b"d": b"x"}}})
    pieces = dump(directory, "tree")
    next(pieces)
    pieces.close()


@pytest.mark.usefixtures("no_leaks")
def test_directories_may_nest_to_the_limit(tmp_path: Path, directory: int, make: Any):
    """What our own reader would refuse is not dumped."""
    make(tmp_path / "tree", {b"a": {b"b": {}}})
    assert len(list(walk(directory, "tree", NarLimits(depth=3)))) == 6
    with pytest.raises(FileError, match="`tree/a/b' lies more than 2 directories deep"):
        list(walk(directory, "tree", NarLimits(depth=2)))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
def test_a_name_is_one_component(directory: int, name: str):
    """Anything else is a mistake of ours."""
    with pytest.raises(AssertionError):
        dumped(directory, name)
