# SPDX-License-Identifier: GPL-3.0-or-later
"""Profile directories of users: whose they are, and what is left alone."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import prctl
import pytest
import structlog
from structlog.testing import capture_logs

from builder.options import Client
from storedaemon import homes
from storedaemon.homes import UserDirectories


@pytest.fixture
def per_user(tmp_path: Path) -> Path:
    """The directory that holds one directory a user."""
    path = tmp_path / "per-user"
    path.mkdir()
    return path


def client(user: str, uid: int | None) -> Client:
    """A client of some user."""
    return Client(1, 1, uid, 100, user, trusted=False)


@pytest.mark.root
def test_the_directory_belongs_to_its_user(tmp_path: Path, per_user: Path):
    """A user can write to the new directory, and nobody else can."""
    UserDirectories(str(tmp_path)).welcome(client("alice", 4711), structlog.get_logger())
    status = (per_user / "alice").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (4711, 0o755)


@pytest.fixture
def ordinary() -> Iterator[str]:
    """The profiles of an ordinary user, which this process is meanwhile."""
    with tempfile.TemporaryDirectory(prefix="sd-") as profiles:
        os.mkdir(f"{profiles}/per-user")
        for path in (profiles, f"{profiles}/per-user"):
            os.chown(path, 4710, -1)
        os.seteuid(4710)
        try:
            yield profiles
        finally:
            os.seteuid(0)


@pytest.mark.root
def test_an_ordinary_user_makes_no_directories_for_others(ordinary: str):
    """They could not be theirs; nothing is left, and nothing is wrong."""
    with capture_logs() as events:
        UserDirectories(ordinary).welcome(client("alice", 4711), structlog.get_logger())
    assert os.listdir(f"{ordinary}/per-user") == []
    assert events == []


@pytest.mark.root
def test_an_ordinary_user_who_may_give_files_away_does(ordinary: str):
    """Units give CAP_CHOWN to a daemon without other privileges, for this purpose."""
    prctl.cap_effective.chown = True
    UserDirectories(ordinary).welcome(client("alice", 4711), structlog.get_logger())
    assert os.stat(f"{ordinary}/per-user/alice").st_uid == 4711


def test_an_existing_directory_is_left_as_it_is(tmp_path: Path, per_user: Path):
    """Whatever an administrator did to a directory stays."""
    (per_user / "alice").mkdir(mode=0o700)
    UserDirectories(str(tmp_path)).ensure("alice", os.geteuid())
    assert stat.S_IMODE((per_user / "alice").stat().st_mode) == 0o700


def test_a_user_is_looked_after_once(tmp_path: Path, per_user: Path):
    """The second connection of a user touches no file."""
    directories = UserDirectories(str(tmp_path))
    directories.ensure("alice", os.geteuid())
    (per_user / "alice").rmdir()
    directories.ensure("alice", os.geteuid())
    assert list(per_user.iterdir()) == []


def test_the_first_client_whoever_it_is_makes_the_parent(tmp_path: Path):
    """Until then nothing tells of users."""
    directories = UserDirectories(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    directories.welcome(client("", None), structlog.get_logger())
    assert [path.name for path in tmp_path.iterdir()] == ["per-user"]


@pytest.mark.parametrize(("enforce", "expected"), [(True, 0o755), (False, 0o777)])
def test_with_build_users_root_alone_makes_directories(
    tmp_path: Path, per_user: Path, *, enforce: bool, expected: int
):
    """A parent that anybody could write to no longer is; an ordinary daemon leaves it."""
    per_user.chmod(0o777)
    UserDirectories(str(tmp_path), enforce=enforce).welcome(
        client("", None), structlog.get_logger()
    )
    assert stat.S_IMODE(per_user.stat().st_mode) == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x"])
def test_names_that_are_no_names_make_nothing(tmp_path: Path, per_user: Path, name: str):
    """Even a broken user database cannot lead elsewhere."""
    UserDirectories(str(tmp_path)).ensure(name, os.geteuid())
    assert list(per_user.iterdir()) == []
    assert list(tmp_path.iterdir()) == [per_user]


@pytest.mark.parametrize(("user", "uid"), [("", None), ("4711", 4711)])
def test_unknown_users_get_nothing(tmp_path: Path, per_user: Path, user: str, uid: int | None):
    """A remote peer, or a number without a name, has no directory."""
    UserDirectories(str(tmp_path)).welcome(client(user, uid), structlog.get_logger())
    assert list(per_user.iterdir()) == []


def test_a_failure_is_reported_and_survived(tmp_path: Path):
    """A client without a profile directory is served all the same."""
    with capture_logs() as events:
        UserDirectories(str(tmp_path / "absent")).welcome(
            client("alice", os.geteuid()), structlog.get_logger()
        )
    assert [(event["event"], event["user"]) for event in events] == [
        ("no profile directory", "alice")
    ]


def test_remembered_names_are_bounded(
    tmp_path: Path, per_user: Path, monkeypatch: pytest.MonkeyPatch
):
    """A stream of distinct users does not fill memory."""
    monkeypatch.setattr(homes, "KEEP_ENTRIES", 3)
    directories = UserDirectories(str(tmp_path))
    for number in range(10):
        directories.ensure(f"user{number}", os.geteuid())
    assert len(directories._seen) == 3
    assert len(list(per_user.iterdir())) == 10
