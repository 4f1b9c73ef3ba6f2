# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's word on who has a lock, for locks of both kinds."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from locker.filelock import try_lock
from locker.holders import find_holder

_HOLD = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.fcntl(fd, int(sys.argv[2]), struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, 0, 0, 0))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", [fcntl.F_SETLK, fcntl.F_OFD_SETLK], ids=["process", "description"])
def test_another_process_is_found(tmp_path: Path, kind: int):
    """By its number and name, and the time of the lock file; nobody once it is gone."""
    path = tmp_path / "item.lock"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, path, str(kind)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        found = find_holder(str(path))
        assert found is not None
        assert found.pid == process.pid
        assert found.command.startswith("python")
        assert found.since == path.stat().st_mtime
        process.communicate()
    assert find_holder(str(path)) is None


def test_a_lock_of_our_own_is_found(tmp_path: Path):
    """It conflicts with us as with anybody, since each description has its own."""
    path = tmp_path / "item.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        assert try_lock(fd, shared=False)
        found = find_holder(str(path))
        assert found is not None
        assert found.pid == os.getpid()
    finally:
        os.close(fd)


def test_who_merely_has_the_file_open_is_not_named(tmp_path: Path):
    """Only the descriptor with the lock counts."""
    path = tmp_path / "item.lock"
    others = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(3)]
    try:
        assert find_holder(str(path)) is None
    finally:
        for fd in others:
            os.close(fd)


def test_what_is_not_there_has_no_holder(tmp_path: Path):
    """Nor has what is no file that could be locked."""
    assert find_holder(str(tmp_path / "nothing")) is None
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert find_holder(str(tmp_path / "link")) is None
