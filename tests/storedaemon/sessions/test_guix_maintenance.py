# SPDX-License-Identifier: GPL-3.0-or-later
"""Roots, verification and deduplication as Guix clients see them."""

import fcntl
import os
import re
import select
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from store.links import MINIMUM_SIZE
from store.nar.events import Content, Regular
from store.nar.writer import write
from storedaemon.wire import messages as m
from storedaemon.wire.guix_client import LogText
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError
from tests.storedaemon.sessions.test_guix_builds import HOST, Recipes

VERIFY = m.VerifyStore(check_contents=True, repair=False)
REPAIR = m.VerifyStore(check_contents=True, repair=True)
BIG = b"x" * MINIMUM_SIZE


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[GuixClient]:
    """A connected client."""
    with GuixClient(daemon.guix_socket) as client:
        yield client


def file_nar(content: bytes, *, executable: bool = False) -> list[bytes]:
    """Give the archive of one file."""
    events = [Regular(b"", executable, len(content)), Content(memoryview(content))]
    return [bytes(piece) for piece in write(events)]


def damage(path: str, content: bytes) -> None:
    """Change a file of the store, which only looks as before."""
    mode = os.stat(path).st_mode
    os.chmod(path, 0o644)
    Path(path).write_bytes(content)
    os.chmod(path, mode)


@contextmanager
def lent(daemon: RunningDaemon) -> Iterator[Path]:
    """A user's directory."""
    home = daemon.base / "home"
    home.mkdir()
    yield home


# The recorded conversations


def test_the_recorded_maintenance_conversation(client: GuixClient):
    """Each line is a text of its own, in the reference's words."""
    client.add_text("hello.txt", b"hello\n")
    assert client.call(VERIFY) == m.Truth(value=False)
    assert client.call(m.OptimiseStore()) == m.Done()
    assert client.output == [
        b"reading the store...\n",
        b"checking path existence...\n",
        b"checking hashes...\n",
        b"   0  bytes freed by hard-linking 0 files\n",
    ]
    assert client.call(m.QueryFailedPaths()) == m.TextsReply(())


def test_the_recorded_roots_conversation(client: GuixClient, daemon: RunningDaemon):
    """A temporary root is none that is shown; an indirect one is the user's link."""
    with lent(daemon) as home:
        item = client.add_text("demo", b"demo")
        link = home / "rec-root"
        link.symlink_to(item)
        client.add_temp_root(item)
        assert client.call(m.FindRoots()) == m.RootsReply(())
        assert client.call(m.AddIndirectRoot(str(link))) == m.Done()
        assert client.call(m.FindRoots()) == m.RootsReply(((str(link), item),))
        assert client.output == []


# Roots


def test_an_indirect_root_ends_with_the_users_link(client: GuixClient, daemon: RunningDaemon):
    """Ours is removed with a remark, and there is nothing to say the next time."""
    with lent(daemon) as home:
        item = client.add_text("demo", b"demo")
        (home / "link").symlink_to(item)
        client.call(m.AddIndirectRoot(f"{home}/link"))
        (home / "link").unlink()
        assert client.call(m.FindRoots()) == m.RootsReply(())
        assert re.fullmatch(
            rf"removing stale link from `{daemon.state}/gcroots/auto/\w{{32}}' "
            rf"to `{home}/link'\n",
            client.text,
        )
        client.output.clear()
        assert client.call(m.FindRoots()) == m.RootsReply(())
        assert client.output == []


def test_a_relative_name_is_no_indirect_root(client: GuixClient):
    """The daemon's own directory means nothing to a client."""
    with pytest.raises(RequestFailedError, match="not an absolute path: `result'"):
        client.call(m.AddIndirectRoot("result"))


# Verification


def test_a_changed_item_is_found(client: GuixClient):
    """With the hash that was registered, and the one that was found."""
    good, bad = client.add_text("good", b"good"), client.add_text("bad", b"bad")
    expected = client.path_info(bad).nar_hash
    damage(bad, b"worse")
    client.add_text("same", b"worse")
    assert client.call(m.VerifyStore(check_contents=False, repair=False)) == m.Truth(value=False)
    client.output.clear()
    assert client.call(VERIFY) == m.Truth(value=True)
    actual = client.path_info(client.add_text("same", b"worse")).nar_hash
    assert client.output[3:] == [
        f"path `{bad}' was modified! expected hash `{expected}', got `{actual}'\n".encode()
    ]
    assert client.is_valid(good)
    assert client.is_valid(bad)


def test_what_is_gone_is_forgotten_with_all_that_refers_to_it(client: GuixClient):
    """Referrers first; then nothing is wrong any more."""
    one = client.add_text("one", b"1")
    two = client.add_text("two", b"2", [one])
    three = client.add_text("three", b"3", [one, two])
    for path in (one, two, three):
        os.unlink(path)
    assert client.call(VERIFY) == m.Truth(value=False)
    assert client.output[2:-1] == [
        f"path `{path}' disappeared, removing from database...\n".encode()
        for path in (three, two, one)
    ]
    assert client.all_valid_paths() == ()


def test_what_is_gone_and_needed_stays_registered(client: GuixClient):
    """As long as what refers to it is there."""
    one = client.add_text("one", b"1")
    two = client.add_text("two", b"2", [one])
    three = client.add_text("three", b"3", [two])
    os.unlink(one)
    os.unlink(two)
    assert client.call(m.VerifyStore(check_contents=False, repair=False)) == m.Truth(value=True)
    assert client.output[2:] == [
        f"path `{path}' disappeared, but it still has valid referrers!\n".encode()
        for path in (two, one)
    ]
    assert client.all_valid_paths() == tuple(sorted([one, two, three]))


def test_sources_cannot_be_repaired(client: GuixClient):
    """Nobody knows how to make them, which is an error of its own in either place."""
    gone = client.add_text("gone", b"1")
    client.add_text("needs", b"2", [gone])
    os.unlink(gone)
    bad = client.add_text("bad", b"3")
    damage(bad, b"4")
    assert client.call(REPAIR) == m.Truth(value=True)
    lines = client.text.splitlines()
    assert f"warning: cannot repair path `{gone}'" in lines
    assert lines[-1] == f"error: cannot repair path `{bad}'"


@pytest.mark.root
def test_only_the_trusted_repair(start_daemon: Callable[..., RunningDaemon]):
    """Others are told so, and nothing is done."""
    daemon = start_daemon("--trusted-user=nobody")
    with GuixClient(_as_user(daemon, 30_017)) as client:
        with pytest.raises(RequestFailedError) as caught:
            client.call(REPAIR)
        assert caught.value.message == "you are not privileged to repair paths"
        assert client.call(VERIFY) == m.Truth(value=False)


def _as_user(daemon: RunningDaemon, uid: int) -> socket.socket:
    """Connect as another user, by whose number the kernel introduces us."""
    previous = os.geteuid()
    os.seteuid(uid)
    try:
        return daemon.connect_guix()
    finally:
        os.seteuid(previous)


@pytest.mark.root
def test_built_items_are_repaired(start_daemon: Callable[..., RunningDaemon]):
    """What was changed and what is gone are built again, and then all is well."""
    daemon = start_daemon("--max-jobs=2", *HOST)
    with GuixClient(daemon.guix_socket) as client:
        recipes = Recipes(daemon, client)
        drv, out = recipes.script("changed", "echo content > $out")
        gone_drv, gone = recipes.script("gone", "mkdir $out; echo other > $out/file")
        client.build(drv, gone_drv)
        client.add_text("needs", b"x", [gone])
        damage(out, b"damage\n")
        shutil.rmtree(gone)
        assert client.call(REPAIR) == m.Truth(value=False)
        assert f"path `{gone}' disappeared, but it still has valid referrers!\n" in client.text
        assert f"path `{out}' was modified! expected hash" in client.text
        assert (Path(out).read_text(), Path(gone, "file").read_text()) == ("content\n", "other\n")
        client.output.clear()
        assert client.call(VERIFY) == m.Truth(value=False)
        assert len(client.output) == 3


# Others' comfort


def test_others_are_answered_while_the_store_is_verified(daemon: RunningDaemon):
    """A question is answered many times before some hundred megabytes are hashed."""
    with GuixClient(daemon.guix_socket) as busy, GuixClient(daemon.guix_socket) as other:
        content = os.urandom(32 << 20)
        items = [
            busy.add_nar(f"big{number}", file_nar(content + bytes([number]))) for number in range(8)
        ]
        busy.send_only(VERIFY)
        _wait_for_text(busy, b"checking hashes...\n")
        times = []
        while not select.select([busy.socket], [], [], 0)[0]:
            asked = time.perf_counter()
            assert other.is_valid(items[0])
            times.append(time.perf_counter() - asked)
        assert busy.wait() == m.Truth(value=False)
        assert len(times) > 20
        assert sorted(times)[len(times) // 2] < 0.01


def _wait_for_text(client: GuixClient, text: bytes) -> None:
    while True:
        event = client.next_event()
        if isinstance(event, LogText) and event.data == text:
            return


def test_whoever_hangs_up_ends_their_verification(start_daemon: Callable[..., RunningDaemon]):
    """Though it would wait for a lock for ever."""
    daemon = start_daemon("--log-level=debug")
    with GuixClient(daemon.guix_socket) as other:
        path = other.add_text("gone", b"text")
        os.unlink(path)
        with open(f"{path}.lock", "w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            with GuixClient(daemon.guix_socket) as client:
                client.send_only(VERIFY)
                _wait_for_text(client, b"checking path existence...\n")
            _wait_for_event(daemon, "client gone")
            assert other.is_valid(path)
        assert other.call(VERIFY) == m.Truth(value=False)
        assert not other.is_valid(path)


def _wait_for_event(daemon: RunningDaemon, name: str) -> None:
    deadline = time.monotonic() + 20
    while not any(event["event"] == name for event in daemon.events()):
        assert time.monotonic() < deadline, daemon.errors()
        time.sleep(0.01)


def test_hanging_up_at_any_time_harms_nobody(start_daemon: Callable[..., RunningDaemon]):
    """Nothing crashes, and others are served as before."""
    daemon = start_daemon("--log-level=debug", "--disable-deduplication")
    with GuixClient(daemon.guix_socket) as other:
        content = os.urandom(4 << 20)
        for number in range(8):
            other.add_nar(f"big{number}", file_nar(content + bytes([number])))
        for request in (VERIFY, m.OptimiseStore(), m.FindRoots()) * 4:
            with GuixClient(daemon.guix_socket) as client:
                client.send_only(request)
        assert other.call(VERIFY) == m.Truth(value=False)
        assert other.call(m.FindRoots()) == m.RootsReply(())
    assert not [event for event in daemon.events() if event["event"] == "operation crashed"]


# Deduplication


def test_equal_files_come_to_share_their_contents(start_daemon: Callable[..., RunningDaemon]):
    """Where they did not before; the second time there is nothing to do."""
    daemon = start_daemon("--disable-deduplication")
    with GuixClient(daemon.guix_socket) as client:
        items = [client.add_nar(name, file_nar(BIG)) for name in ("a", "b", "c")]
        assert len({os.stat(item).st_ino for item in items}) == 3
        client.call(m.OptimiseStore())
        assert client.output == [b"  16.00 KiB freed by hard-linking 2 files\n"]
        assert len({os.stat(item).st_ino for item in items}) == 1
        client.output.clear()
        client.call(m.OptimiseStore())
        assert client.output == [b"   0  bytes freed by hard-linking 0 files\n"]
        assert client.call(VERIFY) == m.Truth(value=False)


def test_writable_files_are_left_alone(start_daemon: Callable[..., RunningDaemon]):
    """Somebody may have written to them."""
    daemon = start_daemon("--disable-deduplication")
    with GuixClient(daemon.guix_socket) as client:
        items = [client.add_nar(name, file_nar(BIG)) for name in ("a", "b")]
        os.chmod(items[0], 0o644)
        client.call(m.OptimiseStore())
        assert client.output == [
            f"skipping suspicious writable file `{items[0]}'\n".encode(),
            b"   0  bytes freed by hard-linking 0 files\n",
        ]
