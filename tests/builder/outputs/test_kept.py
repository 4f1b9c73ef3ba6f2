# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of kept build directories."""

from pathlib import Path

import pytest

from builder.outputs import kept
from builder.outputs.kept import KeptBuild, kept_of, record_kept
from store.paths import StorePath

ONE, OTHER = (StorePath(f"/gnu/store/{letter * 32}-x.drv") for letter in "ab")


def test_the_latest_comes_first_and_a_place_is_one_builds(tmp_path: Path):
    """What is in a place now is not what was kept there before."""
    file = str(tmp_path / "file")
    assert kept_of(file, ONE) == []
    first, second = (KeptBuild(ONE, f"/tmp/{n}", 1000, 100, 30001) for n in (1, 2))
    for build in (first, second, KeptBuild(OTHER, "/tmp/3", 0, 0, 0)):
        record_kept(file, build)
    assert kept_of(file, ONE) == [second, first]
    again = KeptBuild(ONE, "/tmp/1", 1001, 100, 30002)
    record_kept(file, again)
    assert kept_of(file, ONE) == [again, second]
    record_kept(file, KeptBuild(OTHER, "/tmp/1", 0, 0, 0))
    assert kept_of(file, ONE) == [second]


def test_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The record is bounded."""
    monkeypatch.setattr(kept, "MOST_KEPT", 3)
    file = str(tmp_path / "file")
    for number in range(5):
        record_kept(file, KeptBuild(ONE, f"/tmp/{number}", 0, 0, 0))
    assert [build.path for build in kept_of(file, ONE)] == ["/tmp/4", "/tmp/3", "/tmp/2"]


def test_roots_files_are_nobody_elses():
    """Whoever is given a tree may bring files into it, but not have root's."""
    assert KeptBuild(ONE, "/", 1000, 100, 0).owners == {1000}
    assert KeptBuild(ONE, "/", 1000, 100, 30001).owners == {1000, 30001}
    assert KeptBuild(ONE, "/", 0, 0, 30001).owners == {0, 30001}
