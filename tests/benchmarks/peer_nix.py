# SPDX-License-Identifier: GPL-3.0-or-later
"""nix-daemon as the peer, where Debian's ``nix-bin`` is installed: a private one."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

from store.paths import StoreDirectory
from tests.benchmarks import processes
from tests.benchmarks.content import PIECE, file_archive
from tests.benchmarks.driver import BUILD_PATHS, QUERY_PATH_INFO, Line, integer, strings
from tests.benchmarks.nix_client import NixClient, NixError

READY_SECONDS = 10.0

# As our daemon runs here: isolated builds that see nothing that is not asked for.
SETTINGS = """
build-users-group = {group}
sandbox = true
sandbox-fallback = false
sandbox-paths =
substitute = false
substituters =
max-jobs = {jobs}
cores = 1
auto-optimise-store = true
require-sigs = false
"""


def program() -> str | None:
    """Find nix-daemon; None where it is not installed."""
    return shutil.which("nix-daemon")


class NixDriver:
    """A client of nix-daemon; see `driver.Driver`."""

    # Its own clients ask so; to the older request, 2.8 gives no answer at times.
    asks_references = QUERY_PATH_INFO

    def __init__(self, address: str, store: StoreDirectory, pid: int) -> None:
        self.store = store
        self.pid = pid
        self._address = address
        self._client = NixClient(address)

    def close(self) -> None:
        """Hang up."""
        self._client.socket.close()

    def line(self) -> Line:
        """Open a connection and do the handshake."""
        return Line(NixClient(self._address).socket)

    def add_text(self, name: str, text: bytes, references: Iterable[str] = ()) -> str:
        """Add a text; give its path."""
        return self._client.add_text(name, text, references)

    def add_file(self, name: str, data: bytes | bytearray, *, executable: bool = False) -> str:
        """Add a file by the sha256 of its archive; give its path."""
        return self.add_archive(name, file_archive(data, executable=executable))

    def add_flat(self, name: str, data: bytes | bytearray) -> str:
        """Add a file by its own sha256; give its path."""
        view = memoryview(data)
        pieces = (view[at : at + PIECE] for at in range(0, len(data), PIECE))
        return self._client.add(name, "fixed:sha256", pieces)

    def add_archive(self, name: str, archive: Iterable[bytes | memoryview]) -> str:
        """Add what an archive holds by the archive's sha256; give its path."""
        return self._client.add(name, "fixed:r:sha256", archive)

    def build(self, paths: Iterable[str]) -> bytes:
        """Build derivations; give what their builders wrote."""
        self._client.output.clear()
        self._client.build(paths)
        return b"\n".join(self._client.output)

    def build_request(self, path: str) -> bytes:
        """Write a request to build one derivation."""
        return integer(BUILD_PATHS) + strings([f"{path}!*"]) + integer(0)

    def collect_garbage(self) -> int:
        """Delete all that is dead; tell how many items that was."""
        self._client.output.clear()
        return self._client.collect_garbage()


class NixPeer:
    """A private nix-daemon; use it as a context manager.

    Args:
        jobs: How many builds it may run at once.
        group: Whose members builds run as; if empty, builds run as whoever runs the daemon.
    """

    def __init__(self, jobs: int, group: str = "") -> None:
        self.base = Path(tempfile.mkdtemp(prefix="nix-"))
        self.base.chmod(0o755)
        self.store = StoreDirectory(f"{self.base}/store")
        self.address = f"{self.base}/socket"
        settings = SETTINGS.format(jobs=jobs, group=group)
        for name in ("etc", "var", "builds"):
            (self.base / name).mkdir()
        (self.base / "etc/nix.conf").write_text(settings, encoding="utf-8")
        self._drivers: list[NixDriver] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.launch()
            self.driver()
        except BaseException:
            self.close()
            raise
        return self

    def launch(self) -> None:
        """Start the process, without waiting for it."""
        found = program()
        assert found is not None
        with (self.base / "stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                [found],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.base),
            "TMPDIR": f"{self.base}/builds",
            "NIX_REMOTE": "local",  # or else it might become a client of the system's daemon
            "NIX_STORE_DIR": self.store.path,
            "NIX_STATE_DIR": f"{self.base}/var",
            "NIX_LOG_DIR": f"{self.base}/log",
            "NIX_CONF_DIR": f"{self.base}/etc",
            "NIX_DAEMON_SOCKET_PATH": self.address,
        }

    def driver(self) -> NixDriver:
        """Connect a client as soon as that is possible; it is closed with the daemon.

        Raises:
            RuntimeError: The daemon does not start.
        """
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError, ConnectionRefusedError, NixError):
                driver = NixDriver(self.address, self.store, self.pid)
                self._drivers.append(driver)
                return driver
            time.sleep(0.001)
        raise RuntimeError(f"nix-daemon does not start: {(self.base / 'stderr').read_text()}")

    def __exit__(self, *_: object) -> None:
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
            # Its sessions are processes that would go on, in groups of their own.
            for pid in list(processes.tree(self._process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
