# SPDX-License-Identifier: GPL-3.0-or-later

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular, Symlink
from store.nar.writer import write


@given(st.data())
def test_archives_follow_the_definition(
    nodes: st.SearchStrategy[Any], archive_of: Any, events_of: Any, data: st.DataObject
):
    """The phrases put together are what a recursive writer of the definition gives."""
    node = data.draw(nodes)
    assert b"".join(write(events_of(node))) == archive_of(node)


def test_a_files_content_may_come_in_pieces(archive_of: Any):
    """The pieces are passed on as they are, without a copy."""
    pieces = [memoryview(b"abc"), memoryview(b"defgh"), memoryview(b"i")]
    events = [Regular(b"", executable=True, size=9), *map(Content, pieces)]
    written = list(write(events))
    assert b"".join(written) == archive_of((b"abcdefghi",))
    assert [piece for piece in written if isinstance(piece, memoryview)] == pieces


def test_structure_alone_is_not_gathered_without_end():
    """A directory of many links is written in small pieces too."""
    links = [Symlink(b"%06d" % number, b"target") for number in range(10_000)]
    written = list(write([Directory(b""), *links, DirectoryEnd()]))
    assert max(map(len, written)) < 100_000


@pytest.mark.parametrize(
    "events",
    [
        [],
        [Directory(b"")],
        [Regular(b"", executable=False, size=1)],
        [Regular(b"", executable=False, size=1), Content(memoryview(b"ab"))],
        [Regular(b"", executable=False, size=0), Content(memoryview(b"a"))],
        [Regular(b"name", executable=False, size=0)],
        [Directory(b""), Symlink(b"b", b"t"), Symlink(b"a", b"t"), DirectoryEnd()],
        [Directory(b""), Symlink(b"a", b"t"), Symlink(b"a", b"t"), DirectoryEnd()],
        [Symlink(b"", b"t"), Symlink(b"", b"t")],
    ],
)
def test_events_that_make_no_archive_are_a_mistake_of_ours(events: list[NarEvent]):
    """Nothing that our reader would refuse can be written unnoticed."""
    with pytest.raises(AssertionError):
        b"".join(write(events))
