# SPDX-License-Identifier: GPL-3.0-or-later
"""The message that brings up the loopback interface."""

import struct

import pytest

from builder.spawner import network


@pytest.mark.usefixtures("no_leaks")
def test_message_is_a_request_for_the_first_interface() -> None:
    """RTM_NEWLINK with an acknowledgement, for interface 1, sets IFF_UP and nothing else."""
    data = network.LoopbackMessage().get()
    length, kind, flags, _, _ = struct.unpack_from("=IHHII", data)
    _, _, _, index, up, change = struct.unpack_from("=BBHiII", data, 16)
    assert (length, kind, flags) == (len(data), 16, 0x5)
    assert (index, up, change) == (1, 1, 1)


@pytest.mark.usefixtures("no_leaks")
def test_failure_to_encode_is_told_each_time(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A process that could not import pyroute2 leaves no message but a traceback."""

    def fail() -> bytes:
        raise ImportError("no pyroute2")

    monkeypatch.setattr(network, "encode_loopback_up", fail)
    message = network.LoopbackMessage()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="pyroute2"):
            message.get()
    assert "ImportError: no pyroute2" in capfd.readouterr().err


@pytest.mark.usefixtures("no_leaks")
def test_what_nobody_asked_for_leaves_no_process() -> None:
    """A spawner that ends before its first build does not leave one for the daemon to reap."""
    network.LoopbackMessage().close()
    message = network.LoopbackMessage()
    message.get()
    message.close()
    assert message.get()
