# SPDX-License-Identifier: GPL-3.0-or-later
"""`ps --watch` on a terminal: a pseudo-terminal of its own beside the building one."""

import contextlib
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from fcntl import ioctl
from typing import Any

import pytest

pytestmark = pytest.mark.slow


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, site: Any, *arguments: str, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {
            k: v for k, v in site.run.environment.items() if k not in {"COLUMNS", "LINES"}
        }
        self.process = subprocess.Popen(
            site.run.words(*arguments),
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = b""

    def read_until(self, text: bytes) -> None:
        """Read up to some text."""
        while text not in self.shown:
            data = os.read(self.master, 65536)
            assert data, self.shown
            self.shown += data

    def end(self, number: int = signal.SIGINT) -> int:
        """Interrupt the command; read what is left, and give its exit code."""
        self.process.send_signal(number)
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                self.shown += data
        os.close(self.master)
        return self.process.wait(20)


def test_two_terminals(site: Any):
    """One builds, the other watches: what runs, what waits and why, who wants it."""
    first = site.describe("first", "echo compiling; await go; echo > $out")
    second = site.describe("second", "echo > $out")
    building = Terminal(site, "build", first["path"])
    site.until(lambda goals: goals and goals["first"]["last-line"])
    site.client().begin("build", targets=[second["path"]])
    watching = Terminal(site, "ps", "--watch", "--interval=0.1")
    watching.read_until(b"compiling")
    watching.read_until(b"build slot: ")
    assert watching.shown.startswith(b"\x1b[?1049h")
    assert b"1 building, 1 waiting" in watching.shown
    lines = watching.shown.decode().replace("\x1b[K", "").split("\r\n")
    assert all(len(line.replace("\x1b[?1049h\x1b[?25l\x1b[H", "")) < 100 for line in lines)
    site.open("go")
    watching.read_until(b"0 waiting")
    assert watching.end() == 0
    assert watching.shown.rstrip().endswith(b"\x1b[?1049l")
    building.read_until(first["outputs"]["out"].encode())
    assert building.process.wait(20) == 0
    os.close(building.master)


def test_programs_get_snapshots(site: Any):
    """A line of JSON each time."""
    drv = site.describe("seen", "await go; echo > $out")
    client = site.client()
    client.begin("build", targets=[drv["path"]])
    site.until(lambda goals: goals["seen"]["state"] == "building")
    with subprocess.Popen(
        site.run.words("ps", "--watch", "--json", "--interval=0.1"),
        env=site.run.environment,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            (goal,) = json.loads(process.stdout.readline())["goals"]
            assert (goal["drv"], goal["attempt"]) == (drv["path"], 1)
        site.open("go")
        while json.loads(process.stdout.readline())["goals"]:
            pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(20) == 0
