# SPDX-License-Identifier: GPL-3.0-or-later

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CLEAN = """
import os, subprocess

def test_it(no_leaks):
    os.close(os.open("/dev/null", os.O_RDONLY))
    subprocess.run(["true"], check=True)
"""
DESCRIPTOR = """
import os

def test_it(no_leaks):
    os.open("/dev/null", os.O_RDONLY)
"""
ZOMBIE = """
import os

def test_it(no_leaks):
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
"""
THREADS_CHILD = """
import os, threading

def test_it(no_leaks):
    spawned = threading.Event()
    def spawn():
        os.posix_spawn("/bin/sleep", ["sleep", "0.5"], {})
        spawned.set()
    threading.Thread(target=spawn).start()
    assert spawned.wait(5)
"""


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (CLEAN, None),
        (DESCRIPTOR, "open descriptors were left"),
        (ZOMBIE, "child processes were left"),
        (THREADS_CHILD, "child processes were left"),
    ],
    ids=["clean", "descriptor", "zombie", "thread's child"],
)
def test_leaks_fail_a_test_that_asks_for_the_check(
    tmp_path: Path, source: str, complaint: str | None
):
    """A descriptor, a child that nobody reaped, and one that a thread started and left running."""
    conftest = Path(__file__).with_name("conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path]
    result = subprocess.run(command, capture_output=True, check=False, text=True, cwd=tmp_path)
    assert result.returncode == (0 if complaint is None else 1), result.stdout
    assert (complaint or "1 passed") in result.stdout
