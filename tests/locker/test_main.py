# SPDX-License-Identifier: GPL-3.0-or-later
"""The locker process by its socket alone: what it refuses, and what it gave up."""

import array
import contextlib
import dataclasses
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from locker.channel import Channel
from locker.errors import ChannelClosedError
from locker.filelock import try_lock
from locker.harden import forbid_paths
from locker.messages import (
    CODEC,
    MAX_BATCH,
    AcquireLocks,
    AcquireLocksReply,
    GetStatistics,
    GetStatisticsReply,
    Outcome,
    ReleaseLocks,
)
from locker.start import StartedHelper, start_helper

pytestmark = pytest.mark.usefixtures("no_leaks")


@dataclasses.dataclass
class Running:
    """A locker, and our end of the channel."""

    helper: StartedHelper
    channel: Channel

    def send_raw(self, data: bytes, *fds: int) -> None:
        """Send any bytes and descriptors."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        self.helper.socket.sendmsg([data], [rights] if fds else [])

    def ask(self, message: object, *fds: int) -> Any:
        """Send a request and give the reply."""
        self.channel.send(message, fds)
        return self.channel.receive()[0]

    def exit_code(self) -> int:
        """Wait for the end of the channel and of the process."""
        with pytest.raises(ChannelClosedError):
            self.channel.receive()
        return os.waitstatus_to_exitcode(os.waitpid(self.helper.pid, 0)[1])


@contextlib.contextmanager
def running_locker() -> Iterator[Running]:
    """Give a locker; the caller waits for its end, or it is ended."""
    helper = start_helper("locker")
    with Channel(helper.socket, CODEC) as channel:
        yield Running(helper, channel)
    # The caller may have waited for it.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(helper.pid, 0)


@pytest.fixture
def running() -> Iterator[Running]:
    """Give a locker."""
    with running_locker() as running:
        yield running


@pytest.fixture
def lock_file(tmp_path: Path) -> Iterator[int]:
    """Give an open lock file."""
    fd = os.open(tmp_path / "file.lock", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def acquire(first: int, *, shared: bool = False, wait: bool = True) -> AcquireLocks:
    """Give a request for a lock file."""
    return AcquireLocks(first, shared, wait, lock_files=True)


@pytest.mark.parametrize(
    ("data", "fds", "complaint"),
    [
        (b"\xff", (), "invalid message"),
        (b"\xff", (0, 0), "invalid message"),
        (cbor2.dumps(["AcquireLocks", "0", False, True, True]), (0,), "AcquireLocks.first"),
        (CODEC.encode(acquire(0)), (), "AcquireLocks without files"),
        (CODEC.encode(acquire(-1)), (0,), "token -1 was used before"),
        (CODEC.encode(ReleaseLocks(0, 1, deleted=False)), (0,), "1 descriptors beside"),
        (cbor2.dumps(["ReleaseLocks", 0, MAX_BATCH + 1, False]), (), "a range of"),
        (cbor2.dumps(["ReleaseLocks", 0, -1, False]), (), "a range of"),
        (CODEC.encode(AcquireLocksReply(0, 1, Outcome.GRANTED, 0)), (), "unexpected AcquireLocksR"),
        (CODEC.encode(GetStatistics()) + b"\0", (), "more than one value"),
        (bytes(200_000), (0,), "a datagram of more than"),
    ],
)
def test_a_message_that_is_not_permitted_ends_the_locker(
    capfd: pytest.CaptureFixture[str],
    data: bytes,
    fds: tuple[int, ...],
    complaint: str,
) -> None:
    """It says why and exits; the daemon never sends such, so it is not the daemon any more."""
    with running_locker() as running:
        running.send_raw(data, *fds)
        assert running.exit_code() == 1
    assert complaint in capfd.readouterr().err


def test_tokens_ascend(running: Running, lock_file: int) -> None:
    """A token that was used, even if it is free again, is not used for another lock."""
    assert running.ask(acquire(5), lock_file) == AcquireLocksReply(5, 1, Outcome.GRANTED, 0)
    running.channel.send(ReleaseLocks(5, 1, deleted=False))
    running.channel.send(acquire(5), (lock_file,))
    assert running.exit_code() == 1


def test_the_end_of_the_channel_releases_everything(running: Running, tmp_path: Path) -> None:
    """A daemon that is killed leaves no locks behind, whatever it held or waited for."""
    path = tmp_path / "file.lock"
    held, waiting = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert running.ask(acquire(0), held).outcome is Outcome.GRANTED
    running.channel.send(acquire(1), (waiting,))
    os.close(held)
    assert not try_lock(waiting, shared=False)
    running.helper.socket.shutdown(socket.SHUT_RDWR)
    assert running.exit_code() == 0
    assert try_lock(waiting, shared=False)
    os.close(waiting)


def test_unlocking_does_not_depend_on_the_daemon_closing_its_descriptor(
    running: Running, tmp_path: Path
) -> None:
    """The lock belongs to the open file description, which the daemon may still have open."""
    held, other = (os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert running.ask(acquire(0), held).outcome is Outcome.GRANTED
    assert not try_lock(other, shared=False)
    running.channel.send(ReleaseLocks(0, 1, deleted=False))
    assert running.ask(GetStatistics()) == GetStatisticsReply(0, 0, 0, 0)
    assert try_lock(other, shared=False)
    os.close(held)
    os.close(other)


def test_files_that_cannot_be_locked_are_refused_by_their_number(
    running: Running, tmp_path: Path
) -> None:
    """The files before them stay locked, and the locker goes on."""
    good = os.open(tmp_path / "good", os.O_RDWR | os.O_CREAT)
    bad = os.open(tmp_path / "bad", os.O_RDONLY | os.O_CREAT)
    reply = running.ask(AcquireLocks(0, shared=False, wait=True, lock_files=False), good, bad)
    assert (reply.granted, reply.outcome) == (1, Outcome.REFUSED)
    assert os.strerror(reply.errno) == "Bad file descriptor"
    assert running.ask(GetStatistics()).held == 1
    os.close(good)
    os.close(bad)


def test_a_request_cannot_wait_for_itself(running: Running, tmp_path: Path) -> None:
    """One file twice, exclusively, is a deadlock at once rather than for ever."""
    first, second = (os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT) for _ in range(2))
    reply = running.ask(acquire(0), first, second)
    assert (reply.granted, os.strerror(reply.errno)) == (1, "Resource deadlock avoided")
    os.close(first)
    os.close(second)


def test_the_locker_has_neither_rights_nor_files(running: Running) -> None:
    """No capabilities, no new privileges, and its socket is all it has."""
    running.ask(GetStatistics())
    status = Path(f"/proc/{running.helper.pid}/status").read_text()
    assert re.findall(r"Cap(?:Inh|Prm|Eff|Amb):\t(\w+)", status) == ["0" * 16] * 4
    assert "NoNewPrivs:\t1" in status
    assert "Threads:\t1" in status


def test_without_descriptors_to_spare_requests_are_refused(
    running: Running, lock_file: int
) -> None:
    """A closure beyond the limit fails; the locks of others stay."""
    limits = Path(f"/proc/{running.helper.pid}/limits")
    assert running.ask(acquire(0, shared=True), lock_file).outcome is Outcome.GRANTED
    match = re.search(r"Max open files +(\d+)", limits.read_text())
    assert match is not None
    limit = int(match[1])
    if limit > 100_000:
        pytest.skip("the limit is too high to reach")
    files = [lock_file] * MAX_BATCH
    for first in range(1, limit + MAX_BATCH, MAX_BATCH):
        reply = running.ask(AcquireLocks(first, shared=True, wait=True, lock_files=False), *files)
        if reply.outcome is not Outcome.GRANTED:
            break
    assert (reply.granted, os.strerror(reply.errno)) == (0, "Too many open files")
    assert running.ask(GetStatistics()).held == first


def test_forbidding_paths_leaves_open_descriptors_alone(tmp_path: Path) -> None:
    """After that, nothing can be opened by name, and what is open still works."""
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    pid = os.fork()
    if pid == 0:
        os._exit(_try_paths(path, fd))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(fd)
    if code == 77:
        pytest.skip("this kernel has no Landlock")
    assert code == 0


def _try_paths(path: Path, fd: int) -> int:
    """Give 0 if all is as it should be, in a process that will not last."""
    import prctl  # noqa: PLC0415 - for this process alone

    prctl.set_no_new_privs(True)
    if not forbid_paths():
        return 77
    try:
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        return 0 if os.write(fd, b"x") == 1 and try_lock(fd, shared=False) else 2
    return 1
