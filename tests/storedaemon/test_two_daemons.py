# SPDX-License-Identifier: GPL-3.0-or-later
"""Two daemons that serve one store at the same time, each with sockets of its own.

They know of each other only what is in files: the database, locks, temporary
roots, the collector's lock. The C++ daemon could be either of them.
"""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from storedaemon.wire import messages as m

from .conftest import STOP_SECONDS, RunningDaemon, finish
from .guix_client import GuixClient, RequestFailedError
from .test_daemon import HOST_PROGRAMS, add_build, wait_for_text

pytestmark = [pytest.mark.root, pytest.mark.slow]

SECONDS = 20
NO_LIMIT = 2**64 - 1


@dataclass
class Pair:
    """Two daemons, and a directory that builders of both see."""

    one: RunningDaemon
    two: RunningDaemon
    gate: Path

    def open_gate(self) -> None:
        """Let builds go on that wait for it."""
        (self.gate / "open").touch()


@pytest.fixture
def pair(start_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> Iterator[Pair]:
    """Two daemons on one store."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    options = ("--no-substitutes", *HOST_PROGRAMS, "--chroot-directory", f"/gate={tmp_path}")
    environment = {"GUIX": ""}
    one = start_daemon(*options, environment=environment)
    two = RunningDaemon(one.base, one.manager)
    two.sockets = "second-"
    two.start(*options, environment=environment)
    try:
        two.wait_ready()
        yield Pair(one, two, tmp_path)
        finish(two)
    finally:
        two.process.kill()
        two.process.wait(STOP_SECONDS)


GATED = "echo waiting; while [ ! -e /gate/open ]; do sleep 0.02; done;"


def wait_for_contender(lock: str) -> None:
    """Wait until a process waits for the lock of a file."""
    status = os.stat(lock)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    place = f" {device}:{status.st_ino} "
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        lines = Path("/proc/locks").read_text().splitlines()
        if any("->" in line and place in line for line in lines):
            return
        time.sleep(0.01)
    pytest.fail(f"nobody waits for {lock}")


def started(*clients: GuixClient) -> int:
    """Count the builds that clients were told of."""
    return sum(client.text.count("@ build-started") for client in clients)


def test_what_both_are_asked_for_is_built_once(pair: Pair):
    """One waits for the other's lock, finds the output made, and is done."""
    with GuixClient(pair.one.guix_socket) as first, GuixClient(pair.two.guix_socket) as second:
        for client in (first, second):
            client.set_options(print_build_trace=True)
        drv, output = add_build(pair.one, first, "gated", f"{GATED} echo made > $out")
        first.send_only(m.BuildPaths((drv,)))
        wait_for_text(first, b"waiting")
        second.send_only(m.BuildPaths((drv,)))
        wait_for_contender(f"{output}.lock")
        pair.open_gate()
        assert first.wait() == second.wait() == m.Done()
        assert started(first, second) == 1
        assert second.path_info(output) == first.path_info(output)
    assert Path(output).read_text() == "made\n"
    assert not os.path.exists(f"{output}.lock")


def test_what_fails_for_one_the_other_tries_itself(pair: Pair):
    """It cannot know why the output is not there."""
    with GuixClient(pair.one.guix_socket) as first, GuixClient(pair.two.guix_socket) as second:
        for client in (first, second):
            client.set_options(print_build_trace=True)
        drv, output = add_build(pair.one, first, "doomed", f"{GATED} exit 3")
        first.send_only(m.BuildPaths((drv,)))
        wait_for_text(first, b"waiting")
        second.send_only(m.BuildPaths((drv,)))
        wait_for_contender(f"{output}.lock")
        pair.open_gate()
        for client in (first, second):
            with pytest.raises(RequestFailedError) as caught:
                client.wait()
            assert caught.value.status == 100
        assert started(first, second) == 2, (first.text, second.text)
        assert not second.is_valid(output)


def test_the_other_builds_what_a_killed_one_left(pair: Pair):
    """The kernel gives up its locks, and its builder ends with it."""
    pair.one.faults_expected = True
    with GuixClient(pair.one.guix_socket) as first, GuixClient(pair.two.guix_socket) as second:
        second.set_options(print_build_trace=True)
        drv, output = add_build(pair.one, first, "orphan", f"{GATED} echo made > $out")
        first.send_only(m.BuildPaths((drv,)))
        wait_for_text(first, b"waiting")
        second.send_only(m.BuildPaths((drv,)))
        wait_for_contender(f"{output}.lock")
        pair.one.process.send_signal(signal.SIGKILL)
        pair.open_gate()
        assert second.wait() == m.Done()
        assert started(second) == 1
    assert Path(output).read_text() == "made\n"


def add_many(daemon: RunningDaemon, own: str, count: int) -> list[str]:
    """Add items that only this daemon gets, and ones that all get, in turn."""
    with GuixClient(daemon.guix_socket) as client:
        paths = []
        for number in range(count):
            shared = client.add_text(f"shared-{number}", b"the same")
            mine = client.add_text(f"{own}-{number}", b"other", [shared])
            paths += [shared, mine]
        return paths


def test_additions_of_all_kinds_at_once(pair: Pair):
    """Two clients of each: nothing is lost, nothing is there twice, nobody is told BUSY."""
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(add_many, daemon, f"own-{number}", 40)
            for number, daemon in enumerate([pair.one, pair.two] * 2)
        ]
        added = {path for job in jobs for path in job.result()}
    assert len(added) == 40 * 5
    with GuixClient(pair.one.guix_socket) as first, GuixClient(pair.two.guix_socket) as second:
        known = first.all_valid_paths()
        assert sorted(known) == sorted(second.all_valid_paths())
        assert set(known) == added
        shared = next(path for path in added if path.endswith("-shared-7"))
        assert len(first.referrers(shared)) == 4
        assert second.call(m.VerifyStore(check_contents=True, repair=False)) == m.Truth(value=False)


def test_another_process_that_holds_the_database_delays_both(pair: Pair):
    """Neither gives up, nor answers before it has written."""
    with (
        GuixClient(pair.one.guix_socket) as first,
        GuixClient(pair.two.guix_socket) as second,
        closing(sqlite3.connect(f"{pair.one.state}/db/db.sqlite")) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        for number, client in enumerate((first, second)):
            client.send_only(m.AddTextToStore(f"late-{number}", b"text", ()))
        for client in (first, second):
            client.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.wait()
            client.socket.settimeout(SECONDS)
        database.rollback()
        for reply in [first.wait(), second.wait()]:
            assert isinstance(reply, m.TextReply)
            assert first.is_valid(reply.value)
            assert second.is_valid(reply.value)


def collect(client: GuixClient) -> tuple[str, ...]:
    """Collect garbage; give what was deleted."""
    reply = client.call(m.CollectGarbage(m.GarbageAction.DELETE_DEAD, (), False, NO_LIMIT))
    assert isinstance(reply, m.GarbageReply)
    return reply.paths


def collect_until_gone(client: GuixClient, path: str) -> None:
    """Collect until an item is deleted: the other daemon takes a moment to see a client leave."""
    deadline = time.monotonic() + SECONDS
    while path not in collect(client):
        assert time.monotonic() < deadline, f"{path} is kept"
        time.sleep(0.01)


def test_temporary_roots_of_one_hold_against_the_others_collector(pair: Pair):
    """Until the client that needs the item leaves."""
    with GuixClient(pair.two.guix_socket) as collector:
        with GuixClient(pair.one.guix_socket) as user:
            path = user.add_text("in-use", b"text")
            assert path not in collect(collector)
            assert user.is_valid(path)
            assert os.path.exists(path)
        collect_until_gone(collector, path)
    with GuixClient(pair.one.guix_socket) as user:
        assert not user.is_valid(path)


def test_roots_made_through_one_are_the_others_roots(pair: Pair):
    """An indirect root is a link in the state directory, which they share."""
    with GuixClient(pair.two.guix_socket) as collector:
        with GuixClient(pair.one.guix_socket) as user:
            path = user.add_text("kept", b"text")
            link = pair.gate / "result"
            link.symlink_to(path)
            user.call(m.AddIndirectRoot(str(link)))
        found = collector.call(m.FindRoots())
        assert isinstance(found, m.RootsReply)
        assert path in {target for _, target in found.roots}
        assert path not in collect(collector)
        link.unlink()
        collect_until_gone(collector, path)


def test_a_collector_beside_additions_takes_nothing_that_is_new(pair: Pair):
    """What a client was given stays while it is connected, however often the other collects."""
    with (
        GuixClient(pair.one.guix_socket) as user,
        GuixClient(pair.two.guix_socket) as collector,
        ThreadPoolExecutor(1) as pool,
    ):
        paths = [user.add_text("first", b"text")]

        def add() -> None:
            for number in range(60):
                paths.append(user.add_text(f"next-{number}", b"text", [paths[-1]]))

        adding = pool.submit(add)
        rounds = 0
        while not adding.done() or rounds < 3:
            collect(collector)
            rounds += 1
        adding.result()
        assert set(user.valid_paths(paths)) == set(paths)
        assert all(map(os.path.exists, paths))
        assert collector.path_info(paths[-1]).references == (paths[-2],)
