# SPDX-License-Identifier: GPL-3.0-or-later
"""Indirect roots."""

import os

import pytest

from store.errors import InvalidPathError
from store.layout import Layout
from store.roots import add_indirect_root


def test_the_link_has_the_name_that_the_other_daemon_gives(layout: Layout):
    """Base 32 of the path's sha1."""
    link = add_indirect_root(layout, "/home/alice/result")
    assert link == f"{layout.gc_roots}/auto/x6xcakh6pmsprh9372j47cndyciwzqqy"
    assert os.readlink(link) == "/home/alice/result"


def test_the_same_path_has_one_link(layout: Layout):
    """However it is spelt, and however often it is added."""
    links = {
        add_indirect_root(layout, path)
        for path in ("/a/b", "//a/./b", "/a/c/../b", "/a/b/", "/a/b")
    }
    assert len(links) == 1
    assert len(os.listdir(f"{layout.gc_roots}/auto")) == 1


@pytest.mark.parametrize("path", ["", "result", "/a\0b"])
def test_other_text_is_refused(layout: Layout, path: str):
    """The daemon's own directory means nothing to a client."""
    with pytest.raises(InvalidPathError, match="not an absolute path"):
        add_indirect_root(layout, path)
