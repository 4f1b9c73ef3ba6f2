# SPDX-License-Identifier: GPL-3.0-or-later
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from locker.filelock import (
    LockWait,
    install_wake_handler,
    is_stale,
    mark_stale,
    try_lock,
    unlock,
)

if TYPE_CHECKING:
    from tests.locker.conftest import HoldElsewhere

SECONDS = 20


class Waiting:
    """A `LockWait` with its mutex, as the locker's table uses it."""

    def __init__(self, fd: int, *, shared: bool = False) -> None:
        self.mutex = threading.Lock()
        self.ended = threading.Event()
        self.number: int | None = None
        self.wait = LockWait(fd, shared=shared, done=self._done)
        self.wait.start()

    def _done(self, wait: LockWait, number: int) -> None:
        with self.mutex:
            wait.ended = True
            self.number = number
        self.ended.set()

    def cancel(self) -> None:
        """Cancel it under its mutex."""
        with self.mutex:
            self.wait.cancel()

    def result(self) -> int | None:
        """Wait for the end of the wait, and give its error number."""
        assert self.ended.wait(SECONDS)
        return self.number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of an empty file."""
    path = tmp_path / "file.lock"
    path.touch()
    return path


@pytest.fixture
def files(path: Path) -> Iterator[list[int]]:
    """Give three open file descriptions of one file."""
    fds = [os.open(path, os.O_RDWR) for _ in range(3)]
    yield fds
    for fd in fds:
        os.close(fd)


def test_exclusive_locks_exclude_and_shared_ones_do_not(files: list[int]) -> None:
    """Also in one process, where POSIX locks would not conflict."""
    first, second, third = files
    assert try_lock(first, shared=True)
    assert try_lock(second, shared=True)
    assert not try_lock(third, shared=False)
    unlock(first)
    unlock(second)
    assert try_lock(third, shared=False)
    assert not try_lock(first, shared=True)


def test_closing_another_descriptor_of_the_file_keeps_the_lock(
    files: list[int], path: Path
) -> None:
    """The fault of POSIX locks for which the locker exists."""
    assert try_lock(files[0], shared=False)
    os.close(os.open(path, os.O_RDWR))
    assert not try_lock(files[1], shared=False)


@pytest.mark.parametrize("shared", [False, True])
def test_posix_locks_of_other_processes_conflict(
    files: list[int], path: Path, hold_elsewhere: "HoldElsewhere", *, shared: bool
) -> None:
    """A C++ daemon's lock stands in our way, as far as it is of the other kind."""
    holder = hold_elsewhere(path, shared=shared)
    assert not try_lock(files[0], shared=False)
    assert try_lock(files[1], shared=True) == shared
    unlock(files[1])
    holder.release()
    assert try_lock(files[0], shared=False)


def test_posix_locks_of_other_processes_wait_for_ours(
    files: list[int], path: Path, start_elsewhere: "HoldElsewhere"
) -> None:
    """A C++ daemon waits for our lock, and gets it."""
    assert try_lock(files[0], shared=False)
    other = start_elsewhere(path)
    wait_until_listed(path, "-> POSIX")
    unlock(files[0])
    other.wait_until_locked()
    assert not try_lock(files[0], shared=False)


def wait_until_listed(path: Path, words: str) -> None:
    """Wait until the kernel lists a lock, or a wait for one, on a file."""
    inode = f":{path.stat().st_ino} "
    while True:
        for line in Path("/proc/locks").read_text().splitlines():
            if inode in line and words in line:
                return


def test_a_wait_ends_when_the_lock_is_free(
    files: list[int], path: Path, hold_elsewhere: "HoldElsewhere"
) -> None:
    """The waiting thread then has it."""
    holder = hold_elsewhere(path)
    waiting = Waiting(files[0])
    wait_until_listed(path, "-> OFDLCK")
    holder.release()
    assert waiting.result() == 0
    assert not try_lock(files[1], shared=True)


def test_a_wait_in_the_kernel_can_be_cancelled(
    files: list[int], path: Path, hold_elsewhere: "HoldElsewhere"
) -> None:
    """The signal interrupts it; the lock is not taken later either."""
    install_wake_handler()
    holder = hold_elsewhere(path)
    waiting = Waiting(files[0])
    wait_until_listed(path, "-> OFDLCK")
    waiting.cancel()
    waiting.cancel()
    assert waiting.result() == errno.EINTR
    holder.release()
    assert try_lock(files[1], shared=False)


def test_a_wait_can_be_cancelled_at_any_time(
    files: list[int], path: Path, hold_elsewhere: "HoldElsewhere"
) -> None:
    """Before, while and after the thread enters the kernel: no wake-up is lost."""
    install_wake_handler()
    hold_elsewhere(path)
    for turns in range(400):
        waiting = Waiting(files[0])
        for _ in range(turns):
            os.getppid()
        waiting.cancel()
        assert waiting.result() in (errno.EINTR, errno.EINVAL)


def test_cancelling_after_the_end_does_nothing(files: list[int]) -> None:
    """No signal goes to a thread that may be gone."""
    waiting = Waiting(files[0])
    assert waiting.result() == 0
    waiting.cancel()
    assert not waiting.wait.cancelled


def test_a_wait_for_what_cannot_be_locked_ends_with_the_reason(path: Path) -> None:
    """A descriptor that is not open for writing takes no exclusive lock."""
    fd = os.open(path, os.O_RDONLY)
    assert Waiting(fd).result() == errno.EBADF
    os.close(fd)


def test_a_deleted_lock_file_is_stale(files: list[int], path: Path) -> None:
    """Its holder marks it, so that who waits for it can tell."""
    assert not is_stale(files[1])
    path.unlink()
    mark_stale(files[0])
    assert is_stale(files[1])


def test_the_mark_of_the_c_plus_plus_daemon_is_understood(files: list[int], path: Path) -> None:
    """It writes into the file."""
    path.unlink()
    os.write(files[0], b"d")
    assert is_stale(files[1])


def test_a_file_that_has_another_name_is_not_marked(
    files: list[int], path: Path, tmp_path: Path
) -> None:
    """A lock file that is a hard link to another file cannot make us write into that."""
    os.link(path, tmp_path / "precious")
    path.unlink()
    mark_stale(files[0])
    assert (tmp_path / "precious").stat().st_size == 0


def test_the_stale_mark_needs_no_room_on_the_disk(path: Path) -> None:
    """A lock file without a block gets none, so that marking works on a full disk."""
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    mark_stale(fd)
    assert os.fstat(fd).st_blocks == 0
    os.close(fd)


def test_the_kernel_constants_are_those_of_this_kind_of_lock(files: list[int]) -> None:
    """The lock is listed as one of an open file description, on the whole file."""
    assert try_lock(files[0], shared=False)
    inode = os.fstat(files[0]).st_ino
    lines = [n for n in Path("/proc/locks").read_text().splitlines() if f":{inode} " in n]
    assert len(lines) == 1
    assert "OFDLCK" in lines[0]
    assert lines[0].endswith("0 EOF")
    assert fcntl.F_OFD_SETLKW == fcntl.F_OFD_SETLK + 1
