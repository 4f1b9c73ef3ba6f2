# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions that are past their handshake, and the recorded conversations."""

from collections.abc import Callable

import pytest

from storedaemon.wire import guix
from storedaemon.wire.guix_client import GuixClientSession
from storedaemon.wire.primitives import U64
from storedaemon.wire.session import GuixSession

from .conversation import recordings


def _opened(minor: int = 0x64) -> GuixSession:
    session = GuixSession()
    client = GuixClientSession(0x100 | minor)
    session.receive_data(client.start())
    session.next_greeting()
    session.receive_data(client.introduce())
    session.next_greeting()
    session.accept()
    return session


def _opened_client(minor: int = 0x64) -> GuixClientSession:
    client = GuixClientSession(0x100 | minor)
    client.receive_data(U64.pack(guix.DAEMON_MAGIC) + U64.pack(guix.VERSION))
    client.next_event()
    client.introduce()
    client.receive_data(U64.pack(guix.LAST))
    client.next_event()
    return client


@pytest.fixture(scope="session")
def opened() -> Callable[[int], GuixSession]:
    """Make a daemon's session whose client has a given minor version."""
    return _opened


@pytest.fixture(scope="session")
def opened_client() -> Callable[[int], GuixClientSession]:
    """Make a client's session of a given minor version."""
    return _opened_client


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes a `transcript` on each recorded conversation."""
    if "transcript" in metafunc.fixturenames:
        files = recordings()
        metafunc.parametrize("transcript", files, ids=[file.stem for file in files])
