# SPDX-License-Identifier: GPL-3.0-or-later
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from locker.channel import Channel
from locker.errors import ChannelClosedError
from locker.messages import CODEC, GetStatistics
from locker.start import StartedHelper, helper_environment, start_helper

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def helper() -> Iterator[tuple[StartedHelper, Channel]]:
    """Give a helper that has started, with an inheritable descriptor in this process."""
    stray, other = os.pipe()
    os.set_inheritable(stray, True)
    started = start_helper("locker")
    with Channel(started.socket, CODEC) as channel:
        channel.send(GetStatistics())
        channel.receive()
        yield started, channel
    os.waitpid(started.pid, 0)
    os.close(stray)
    os.close(other)


def test_a_helper_has_its_socket_at_three_and_nothing_else(
    helper: tuple[StartedHelper, Channel],
) -> None:
    """Whatever the daemon has open, even inheritable, the helper has not."""
    directory = Path(f"/proc/{helper[0].pid}/fd")
    targets = {int(entry.name): os.readlink(entry) for entry in directory.iterdir()}
    assert set(targets) == {0, 1, 2, 3}
    assert targets[0] == "/dev/null"
    assert targets[3].startswith("socket:")
    assert targets[2] == os.readlink("/proc/self/fd/2")


def test_a_helper_has_a_name_and_a_session_of_its_own(
    helper: tuple[StartedHelper, Channel],
) -> None:
    """`ps` tells what it is, and a terminal's interrupt does not reach it."""
    pid = helper[0].pid
    assert Path(f"/proc/{pid}/comm").read_text() == "locker\n"
    assert Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0-I\0-m\0locker\0")
    assert os.getsid(pid) == pid


def test_an_orderly_stop_signal_does_not_end_a_helper(
    helper: tuple[StartedHelper, Channel],
) -> None:
    """A service manager signals all processes at once; the daemon still needs its helpers."""
    started, channel = helper
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(started.pid, number)
    channel.send(GetStatistics())
    channel.receive()


def test_a_helper_sees_little_of_the_environment() -> None:
    """Settings go as arguments, secrets not at all."""
    environment = {"PATH": "/bin", "PYTHONPATH": "/tmp", "SECRET": "s", "LANG": "C"}
    assert helper_environment(environment) == {"PATH": "/bin", "LANG": "C"}


def test_a_helper_ends_with_its_channel(no_leaks: None) -> None:  # noqa: ARG001
    """Nothing else is needed to stop one."""
    started = start_helper("locker")
    started.socket.close()
    _, status = os.waitpid(started.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_module_that_is_none_shows_as_a_closed_channel(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The helper's death is an end of the channel, and an exit code."""
    started = start_helper("locker.none")
    with Channel(started.socket, CODEC) as channel, pytest.raises(ChannelClosedError):
        channel.receive()
    _, status = os.waitpid(started.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert "No module named locker.none" in capfd.readouterr().err
