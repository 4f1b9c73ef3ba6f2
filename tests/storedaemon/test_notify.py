# SPDX-License-Identifier: GPL-3.0-or-later
"""States told to a service manager, over real datagram sockets."""

import socket
from pathlib import Path

import pytest

from storedaemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path):
    """A manager's socket, and the address that its services see."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        if request.param == "path":
            address = str(tmp_path / "notify")
            sock.bind(address)
        else:
            sock.bind(f"\0storedaemon-test-{tmp_path}")
            address = f"@storedaemon-test-{tmp_path}"
        yield sock, address


def test_states_arrive_one_a_datagram(manager: tuple[socket.socket, str]):
    """Each state is one datagram in the protocol's form."""
    sock, address = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.status("two\nlines")
    notifier.ready()
    notifier.stopping()
    assert [sock.recv(100) for _ in range(3)] == [b"STATUS=two lines", b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("address", ["", "/nonexistent/socket", "vsock:2:1", "@storedaemon-absent"])
def test_a_manager_that_is_not_there_harms_nothing(address: str):
    """Without a manager, telling it is no error."""
    Notifier(address).ready()
