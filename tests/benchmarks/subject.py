# SPDX-License-Identifier: GPL-3.0-or-later
"""Our daemon, as a process of its own with a store of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from store.paths import StoreDirectory
from tests.benchmarks.guix_driver import GuixDriver

READY_SECONDS = 20.0
STOP_SECONDS = 40.0


class Subject:
    """A daemon; use it as a context manager.

    Args:
        options: Further options of ``storedaemon serve``.

    Attributes:
        base: A directory of its own, in which everything lies.
        pid: The process.
    """

    def __init__(self, *options: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="bench-"))
        self.base.chmod(0o755)
        self.store = StoreDirectory(f"{self.base}/store")
        self.address = f"{self.base}/guix"
        (self.base / "builds").mkdir()
        self._options = options
        self._drivers: list[GuixDriver] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"{self.base}/notify")
            manager.settimeout(0.2)
            try:
                self.launch()
                self._wait_ready(manager)
            except BaseException:
                self.close()
                raise
        return self

    def launch(self) -> None:
        """Start the process, without waiting for it."""
        command = [sys.executable, "-m", "storedaemon", "serve"]
        places = ["--store", self.store.path, "--state", f"{self.base}/state"]
        builds = ["--build-directory", f"{self.base}/builds"]
        sockets = ["--listen", f"{self.base}/native", "--listen-guix", self.address]
        with (self.base / "stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                [*command, *places, *builds, *sockets, *self._options],
                env={**os.environ, "NOTIFY_SOCKET": f"{self.base}/notify"},
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )

    def _wait_ready(self, manager: socket.socket) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(TimeoutError):
                if manager.recv(4096) == b"READY=1":
                    return
        raise RuntimeError(f"the daemon did not start:\n{self.errors()}")

    def errors(self) -> str:
        """What it wrote to standard error, the end of it."""
        text = (self.base / "stderr").read_text(encoding="utf-8", errors="replace")
        return text[-4000:]

    def driver(self) -> GuixDriver:
        """Connect a client, which is closed with the daemon at the latest."""
        driver = GuixDriver(self.address, self.store, self.pid)
        self._drivers.append(driver)
        return driver

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"The daemon's last words:\n{self.errors()}")
        self.close()

    def close(self) -> None:
        """Stop the process, and delete all that it made."""
        self.stop()
        shutil.rmtree(self.base, ignore_errors=True)

    def stop(self) -> None:
        """Stop the process; it may be launched again."""
        while self._drivers:
            self._drivers.pop().close()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
