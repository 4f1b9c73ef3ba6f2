# SPDX-License-Identifier: GPL-3.0-or-later
"""The first half second of a daemon: whom it serves, and how it ends, before it is whole."""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient

Start = Callable[..., RunningDaemon]


def connected_at_once(daemon: RunningDaemon) -> socket.socket:
    """Connect to a daemon as soon as it listens."""
    while daemon.process.poll() is None:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return daemon.connect_guix()
        time.sleep(0.001)
    raise AssertionError(daemon.errors())


def test_questions_are_answered_before_it_is_whole(start_daemon: Start):
    """Who connects while it starts gets replies, and only what needs all parts waits for them."""
    daemon = start_daemon(ready=False)
    with GuixClient(connected_at_once(daemon)) as client:
        assert not client.is_valid(f"{daemon.store}/{'0' * 32}-absent")
        path = client.add_text("early", b"text")
        assert client.is_valid(path)
    assert daemon.manager.recv(100) == b"READY=1"
    names = [event["event"] for event in daemon.events()]
    assert names[:2] == ["connected", "ready"]


def test_a_signal_while_it_starts_leaves_nothing_behind(start_daemon: Start):
    """It ends in order as soon as it can, and its socket files go with it."""
    daemon = start_daemon(ready=False)
    connected_at_once(daemon).close()
    assert daemon.stop(signal.SIGTERM) == 0
    assert not os.path.exists(daemon.guix_socket)
    assert not os.path.exists(daemon.native_socket)
