# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories of a store: their modes, owners, and links that are refused."""

import grp
import os
import stat
from pathlib import Path

import pytest

from store.errors import FileError, StoreError
from store.layout import Layout
from storedaemon.directories import group_number, plan, prepare


def layout(base: Path) -> Layout:
    """A layout in a directory that does not exist yet."""
    return Layout.under(f"{base}/new/store", f"{base}/new/state")


def mode(path: str) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(os.stat(path).st_mode)


def test_parents_are_planned_first():
    """Each directory comes after the one that holds it."""
    paths = [directory.path for directory in plan(Layout.under("/s", "/v"), None)]
    assert all(
        paths.index(parent) < paths.index(path)
        for path in paths
        if (parent := os.path.dirname(path)) in paths
    )


def test_everything_is_made_and_a_second_time_changes_nothing(tmp_path: Path):
    """A new store is complete, and preparing it again is harmless."""
    where = layout(tmp_path)
    prepare(where, "")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    prepare(where, "")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert mode(where.store) == mode(where.links) == mode(where.database) == 0o755
    assert os.readlink(f"{where.gc_roots}/profiles") == where.profiles


@pytest.mark.root
def test_build_users_share_the_store_directory(tmp_path: Path):
    """With a group the store is sticky and writable for it, whatever it was before."""
    group = grp.getgrgid(os.getgid()).gr_name
    where = layout(tmp_path)
    Path(where.store).mkdir(parents=True, mode=0o700)
    prepare(where, group)
    status = os.stat(where.store)
    assert (status.st_uid, status.st_gid, mode(where.store)) == (0, os.getgid(), 0o1775)


def test_an_absent_group_is_named():
    """The error says which group does not exist."""
    with pytest.raises(StoreError, match="the group `no-such-group-x' specified") as caught:
        group_number("no-such-group-x")
    assert caught.value.reason == "no-such-group"


def test_a_store_behind_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A link anywhere above the store is an error, unless the owner insists."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    where = Layout.under(f"{tmp_path}/link/store", f"{tmp_path}/state")
    with pytest.raises(FileError, match="link' is a symlink; this is not allowed"):
        prepare(where, "")
    monkeypatch.setenv("NIX_IGNORE_SYMLINK_STORE", "1")
    prepare(where, "")


def test_a_file_in_the_way_is_named(tmp_path: Path):
    """What is no directory where one must be is an error that names it."""
    where = layout(tmp_path)
    Path(where.state).parent.mkdir(parents=True)
    Path(where.state).write_text("")
    with pytest.raises(FileError, match=f"cannot prepare '{where.state}': Not a directory"):
        prepare(where, "")
