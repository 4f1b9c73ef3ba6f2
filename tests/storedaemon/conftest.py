# SPDX-License-Identifier: GPL-3.0-or-later
"""A real daemon process for tests, with a store of its own.

`daemon` is one with the usual options; `start_daemon` starts as many as a test
likes, with any options. Each must end in order, and leave nothing behind.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

READY_SECONDS = 20
STOP_SECONDS = 35
KILLED_SECONDS = 1

FAULTS = ("part failed", "session crashed", "request failed", "job_crashed", "Traceback")


@dataclass
class RunningDaemon:
    """A daemon process and where it works.

    Attributes:
        base: A directory of its own, with a short name, that everything else lies in.
        manager: The service manager's socket.
        faults_expected: Set by a test that breaks something on purpose.
        sockets: What the names of its sockets begin with, where two daemons share a base.
    """

    base: Path
    manager: socket.socket
    process: "subprocess.Popen[bytes]" = field(init=False)
    faults_expected: bool = False
    sockets: str = ""

    @property
    def store(self) -> str:
        """The store directory."""
        return f"{self.base}/store"

    @property
    def state(self) -> str:
        """The state directory."""
        return f"{self.base}/state"

    @property
    def guix_socket(self) -> str:
        """Where Guix clients connect."""
        return f"{self.base}/{self.sockets}guix"

    @property
    def native_socket(self) -> str:
        """Where native clients connect."""
        return f"{self.base}/{self.sockets}native"

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self.process.pid

    def start(
        self,
        *options: str,
        environment: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        """Start the process, without waiting for it; a wrapper is a command that executes it."""
        with (self.base / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [
                    *wrapper,
                    *(sys.executable, "-m", "storedaemon", "serve"),
                    *("--store", self.store, "--state", self.state),
                    *("--listen", self.native_socket, "--listen-guix", self.guix_socket),
                    *("--log-format", "json", *options),
                ],
                env={
                    **os.environ,
                    "NOTIFY_SOCKET": f"{self.base}/notify",
                    "PYTHONWARNINGS": "error",
                    "GUIX": f"{self.base}/no-guix",
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )

    def wait_ready(self) -> None:
        """Wait until the daemon says that it serves clients."""
        deadline = time.monotonic() + READY_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if self.manager.recv(4096) == b"READY=1":
                    return
            except TimeoutError:
                continue
        self.process.kill()
        self.process.wait()
        pytest.fail(f"the daemon did not become ready:\n{self.errors()}")

    def errors(self) -> str:
        """What the daemon wrote to standard error."""
        return (self.base / "stderr").read_text(encoding="utf-8", errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """The events that the daemon reported."""
        return [json.loads(line) for line in self.errors().splitlines() if line.startswith("{")]

    def connect_guix(self) -> socket.socket:
        """Connect as a Guix client, without a handshake."""
        return _connect(self.guix_socket)

    def connect_native(self) -> socket.socket:
        """Connect as a native client, without a handshake."""
        return _connect(self.native_socket)

    def descendants(self) -> list[int]:
        """The processes that exist because of the daemon."""
        return _descendants(self.pid)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Have the daemon stop in order, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    sock.settimeout(10)
    return sock


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        for task in tasks:
            text = Path(f"/proc/{pid}/task/{task}/children").read_text()
            for child in map(int, text.split()):
                found += [child, *_descendants(child)]
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
    return found


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _still_alive(pids: list[int]) -> list[int]:
    """Return which processes live on; the kernel may need a moment for one that was killed."""
    deadline = time.monotonic() + KILLED_SECONDS
    while (left := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def finish(daemon: RunningDaemon) -> None:
    """Stop a daemon if need be, and see that it left nothing behind."""
    running = daemon.process.poll() is None
    descendants = daemon.descendants()
    code = daemon.stop()
    left = _still_alive(descendants)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if running:
        assert code == 0, daemon.errors()
        assert not os.path.exists(daemon.guix_socket)
        assert not os.path.exists(daemon.native_socket)
        assert str(daemon.pid) not in os.listdir(f"{daemon.state}/temproots")
    assert left == [], f"processes were left:\n{daemon.errors()}"
    if not daemon.faults_expected:
        assert not [fault for fault in FAULTS if fault in daemon.errors()], daemon.errors()


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., RunningDaemon]]:
    """Start daemons with any options; they are stopped, and judged, after the test.

    With ``ready=False`` the test itself waits until a daemon is ready, or ends; `kind`
    is what starts it; what else is named goes to `RunningDaemon.start`.
    """
    daemons: list[RunningDaemon] = []

    def start(
        *options: str, ready: bool = True, kind: type[RunningDaemon] = RunningDaemon, **how: Any
    ) -> RunningDaemon:
        base = Path(tempfile.mkdtemp(prefix="sd-"))
        base.chmod(0o755)
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(f"{base}/notify")
        manager.settimeout(0.5)
        daemon = kind(base, manager)
        daemon.start(*options, **how)
        daemons.append(daemon)
        if ready:
            daemon.wait_ready()
        return daemon

    try:
        yield start
        for daemon in daemons:
            finish(daemon)
    finally:
        for daemon in daemons:
            daemon.process.kill()
            daemon.process.wait()
            daemon.manager.close()
            shutil.rmtree(daemon.base, ignore_errors=True)


@pytest.fixture
def daemon(start_daemon: Callable[..., RunningDaemon]) -> RunningDaemon:
    """A daemon that serves an empty store."""
    return start_daemon()
