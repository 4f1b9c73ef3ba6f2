# SPDX-License-Identifier: GPL-3.0-or-later
"""Collections while others build and add, on one store of two daemons; and one that is killed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storedaemon.wire import messages as m
from tests.soundness import unsound_items
from tests.storedaemon.conftest import RunningDaemon, finish
from tests.storedaemon.guix_client import ConnectionEndedError, GuixClient
from tests.storedaemon.sessions.test_guix_builds import HOST, Recipes

pytestmark = [pytest.mark.root, pytest.mark.slow]

ALL = m.CollectGarbage(m.GarbageAction.DELETE_DEAD, (), ignore_liveness=False, max_freed=2**64 - 1)
ROUNDS = 12


@contextmanager
def second_daemon(first: RunningDaemon) -> Iterator[RunningDaemon]:
    """Another daemon on the store of the first."""
    second = RunningDaemon(first.base, first.manager, sockets="second-")
    second.start(*HOST)
    try:
        second.wait_ready()
        yield second
        finish(second)
    finally:
        second.process.kill()
        second.process.wait()


class Crowd:
    """Clients in threads, until they have done their rounds or one fails."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.over = threading.Event()

    def work(self, rounds: Callable[[int], None]) -> None:
        """Do rounds."""
        try:
            for number in range(ROUNDS):
                if self.failures:
                    break
                rounds(number)
        except BaseException as error:  # noqa: BLE001 - the test raises it again
            self.failures.append(error)

    def collect(self, daemon: RunningDaemon) -> None:
        """Collect again and again."""
        try:
            while not self.over.is_set():
                with GuixClient(daemon.guix_socket) as client:
                    client.call(ALL)
        except BaseException as error:  # noqa: BLE001 - the test raises it again
            self.failures.append(error)


def build_round(daemon: RunningDaemon, number: int) -> None:
    """Build something from something that was built."""
    with GuixClient(daemon.guix_socket) as client:
        recipes = Recipes(daemon, client)
        drv, out = recipes.script(f"b{number}", f"mkdir $out; echo {number} > $out/file; sleep 0.1")
        client.build(drv)
        assert client.is_valid(out)
        assert Path(out, "file").read_text() == f"{number}\n"
        assert client.is_valid(recipes.shell)
        assert os.path.exists(recipes.shell)


def add_round(daemon: RunningDaemon, who: str, number: int) -> None:
    """Add items that refer to each other, the first of which others add as well."""
    with GuixClient(daemon.guix_socket) as client:
        chain = [client.add_text("common", b"common")]
        for depth in range(8):
            chain.append(client.add_text(f"{who}-{number}-{depth}", b"x" * depth, [chain[-1]]))
        for path in chain:
            assert client.is_valid(path)
            assert os.path.exists(path)


def test_nothing_in_use_is_ever_deleted(start_daemon: Callable[..., RunningDaemon]):
    """Two daemons build, add and collect all the time; what a session made is there throughout."""
    first = start_daemon("--max-jobs=2", *HOST)
    with second_daemon(first) as second:
        crowd = Crowd()
        rounds = [
            lambda number: build_round(first, number),
            lambda number: build_round(second, 1000 + number),
            lambda number: add_round(first, "first", number),
            lambda number: add_round(second, "second", number),
        ]
        workers = [threading.Thread(target=crowd.work, args=(each,)) for each in rounds]
        collectors = [threading.Thread(target=crowd.collect, args=(d,)) for d in (first, second)]
        for thread in (*workers, *collectors):
            thread.start()
        for thread in workers:
            thread.join(120)
        crowd.over.set()
        for thread in collectors:
            thread.join(60)
        assert crowd.failures == []
        with GuixClient(first.guix_socket) as client:
            assert client.call(m.VerifyStore(check_contents=True, repair=False)) == m.Truth(
                value=False
            )
        assert unsound_items(first) == []


def test_a_daemon_killed_while_it_deletes_leaves_a_sound_store(
    start_daemon: Callable[..., RunningDaemon],
):
    """What is registered is there, whenever it died; and the next collection takes the rest."""
    daemon = start_daemon()
    daemon.faults_expected = True
    with GuixClient(daemon.guix_socket) as client:
        kept = client.add_text("kept", b"kept")
        os.symlink(kept, f"{daemon.state}/gcroots/kept")
        for number in range(3000):
            client.add_text(f"item-{number}", b"x", [kept])
    client = GuixClient(daemon.guix_socket)
    killer = threading.Thread(target=kill_when_something_went, args=(daemon,))
    with client:
        killer.start()
        with pytest.raises((ConnectionEndedError, ConnectionError)):
            client.call(ALL)
    killer.join()
    daemon.process.wait()
    daemon.start()
    daemon.wait_ready()
    with GuixClient(daemon.guix_socket) as client:
        assert client.call(m.VerifyStore(check_contents=True, repair=False)) == m.Truth(value=False)
        assert not [text for text in client.output if b"disappeared" in text]
        valid = client.call(m.QueryAllValidPaths())
        assert isinstance(valid, m.TextsReply)
        assert all(map(os.path.exists, valid.values))
        client.call(ALL)
        assert client.call(m.QueryAllValidPaths()) == m.TextsReply((kept,))
        left = {f"{daemon.store}/{name}" for name in os.listdir(daemon.store)}
        assert {path for path in left if "/." not in path} == {kept}


def kill_when_something_went(daemon: RunningDaemon) -> None:
    """Kill the daemon as soon as there are fewer items than there were."""
    total = len(os.listdir(daemon.store))
    while len(os.listdir(daemon.store)) >= total:
        pass
    os.kill(daemon.pid, signal.SIGKILL)
