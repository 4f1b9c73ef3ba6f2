# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon that the tests of a module attack, and a bystander who must not notice.

After each test the bystander's session still answers, and the daemon holds, and
the store has, nothing that was not there before.
"""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from storedaemon.wire import messages as m
from tests.hostile.peers import RawGuix, RawNative
from tests.soundness import Footprint, footprint, leaks, leftovers, unsound_items
from tests.storedaemon.conftest import (
    RunningDaemon,
    finish,
    start_daemon,  # noqa: F401 - a fixture
)
from tests.storedaemon.guix_client import GuixClient

MAX_GROWTH = 64 << 10
"""KiB that the daemon may grow by in all tests of a module together."""


@dataclass(frozen=True, slots=True)
class Victim:
    """What is attacked.

    Attributes:
        daemon: The daemon.
        bystander: A client whose session must go on.
        item: What the bystander has added.
        before: What the daemon held before the first attack.
    """

    daemon: RunningDaemon
    bystander: GuixClient
    item: str
    before: Footprint

    def guix(self, version: int = 0x164) -> RawGuix:
        """Connect and shake hands as a Guix client; use it as a context manager."""
        peer = RawGuix(self.daemon.connect_guix())
        peer.greet(version)
        return peer

    def native(self) -> RawNative:
        """Connect and exchange hellos as a native client; use it as a context manager."""
        peer = RawNative(self.daemon.connect_native())
        peer.greet()
        return peer

    def is_unharmed(self) -> None:
        """See that nothing is left of an attack."""
        assert self.bystander.is_valid(self.item)
        assert leaks(self.daemon, self.before) == []
        assert leftovers(self.daemon) == []
        assert unsound_items(self.daemon) == []
        grown = footprint(self.daemon).resident - self.before.resident
        assert grown < MAX_GROWTH, f"{grown} KiB more than before"


def warm_up(client: GuixClient, item: str) -> None:
    """Have a daemon make what it makes once and then keeps: its watcher, its connections."""
    client.call(m.EnsurePath(item))
    client.all_valid_paths()


@pytest.fixture(scope="module")
def attacked() -> Iterator[Victim]:
    """A daemon for all tests of a module."""
    base = Path(tempfile.mkdtemp(prefix="sd-"))
    base.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{base}/notify")
        manager.settimeout(0.5)
        daemon = RunningDaemon(base, manager)
        daemon.start()
        try:
            daemon.wait_ready()
            with GuixClient(daemon.guix_socket) as bystander:
                item = bystander.add_text("bystander", b"text")
                warm_up(bystander, item)
                yield Victim(daemon, bystander, item, footprint(daemon))
            finish(daemon)
        finally:
            daemon.process.kill()
            daemon.process.wait()
            shutil.rmtree(base)


@pytest.fixture
def victim(attacked: Victim) -> Iterator[Victim]:
    """The daemon, which must be unharmed after the test."""
    yield attacked
    attacked.is_unharmed()
