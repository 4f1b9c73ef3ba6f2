# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``contrib/guix-daemon`` as scripts start it: by environment and few options."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import storedaemon
from builder.options import BuildMode
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError
from tests.storedaemon.test_daemon import HOST_PROGRAMS, add_build, status_of

PROGRAM = Path(storedaemon.__file__).parents[1] / "contrib" / "guix-daemon"

Start = Callable[..., RunningDaemon]


class GuixDaemon(RunningDaemon):
    """A daemon that finds its place by the environment alone, as in Guix's own tests."""

    @property
    def guix_socket(self) -> str:
        """The default socket of the state directory."""
        return f"{self.state}/daemon-socket/socket"

    @property
    def native_socket(self) -> str:
        """The other one, beside it."""
        return f"{self.state}/daemon-socket/storedaemon"

    def start(
        self,
        *options: str,
        environment: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        """Start the process, without waiting for it."""
        with (self.base / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [*wrapper, str(PROGRAM), "--no-substitutes", *options],
                env={**self.variables(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )

    def variables(self) -> dict[str, str]:
        """The environment that names every directory."""
        return {
            **os.environ,
            "STOREDAEMON_PYTHON": sys.executable,
            "NOTIFY_SOCKET": f"{self.base}/notify",
            "NIX_STORE_DIR": self.store,
            "GUIX_STATE_DIRECTORY": self.state,
            "GUIX_LOG_DIRECTORY": f"{self.base}/log",
            "GUIX_DATABASE_DIRECTORY": f"{self.base}/db",
            "GUIX_CONFIGURATION_DIRECTORY": f"{self.base}/etc",
            "LC_ALL": "C.UTF-8",
        }


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run the program where it is not to become a daemon."""
    return subprocess.run(
        [PROGRAM, *words],
        env={
            **os.environ,
            "STOREDAEMON_PYTHON": sys.executable,
            "GUIX_STATE_DIRECTORY": "/nonexistent",
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize(
    ("word", "beginning"),
    [
        ("--version", "guix-daemon (storedaemon) "),
        ("--help", "Usage: guix-daemon [OPTION...]\n"),
        ("--usage", "Usage: guix-daemon [-?V] [-c N]"),
    ],
)
def test_questions_are_answered_on_standard_output(word: str, beginning: str):
    """And the exit status is 0."""
    result = run(word)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(beginning)


def test_it_finds_an_installed_package_from_elsewhere(tmp_path: Path):
    """Where the program is not beside the modules, as in a distribution's package."""
    program = tmp_path / "contrib" / "guix-daemon"
    program.parent.mkdir()
    shutil.copy(PROGRAM, program)
    environment = {**os.environ, "STOREDAEMON_PYTHON": sys.executable}
    said = subprocess.check_output([program, "--version"], env=environment, text=True, timeout=20)
    assert said.startswith("guix-daemon (storedaemon) ")


def test_mistakes_have_the_references_text_and_status():
    """Argp's 64 for the command line, 1 for an argument."""
    result = run("--bogus")
    assert result.returncode == 64
    assert result.stderr == (
        "guix-daemon: unrecognized option '--bogus'\n"
        "Try `guix-daemon --help' or `guix-daemon --usage' for more information.\n"
    )
    result = run("--cores=x")
    assert result.returncode == 1
    assert (
        result.stderr == "error: configuration setting `build-cores' should have an integer value\n"
    )


def test_it_is_the_process_that_was_started(start_daemon: Start):
    """It works in `/`, by the directories of its environment, and ends by a hang-up, too."""
    daemon = start_daemon(kind=GuixDaemon)
    assert status_of(daemon.pid)["Name"] == "storedaemon"
    assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"
    assert Path(daemon.base, "db/db.sqlite").exists()
    with GuixClient(daemon.guix_socket) as client:
        assert client.add_text("x", b"text").startswith(f"{daemon.store}/")
    assert daemon.stop(signal.SIGHUP) == 0


def test_it_works_through_a_link(tmp_path: Path):
    """A site puts a link of that name where the C++ program was."""
    (tmp_path / "guix-daemon").symlink_to(PROGRAM)
    result = subprocess.run(
        ["guix-daemon", "--version"],
        env={"PATH": f"{tmp_path}:/bin:/usr/bin", "STOREDAEMON_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("guix-daemon ")


@pytest.mark.root
def test_root_without_build_users_is_warned_and_builds_in_a_user_namespace(start_daemon: Start):
    """As the reference: builders are no user of this machine, and outputs belong to root."""
    daemon = start_daemon(*HOST_PROGRAMS, kind=GuixDaemon)
    assert "warning: the daemon runs as root" in daemon.errors()
    with GuixClient(daemon.guix_socket) as client:
        drv, output = add_build(
            daemon, client, "who", "id -u > $out; cat /proc/self/uid_map >>$out"
        )
        client.build(drv)
    uid, uid_map = Path(output).read_text().splitlines()
    assert uid == "30001"
    assert uid_map.split() == ["30001", "30001", "1"]
    assert os.stat(output).st_uid == 0


@pytest.mark.root
def test_root_without_build_users_or_containers_builds_as_root(start_daemon: Start):
    """The reference does so too, which is why it warns."""
    daemon = start_daemon("--disable-chroot", kind=GuixDaemon)
    with GuixClient(daemon.guix_socket) as client:
        drv, output = add_build(daemon, client, "who", "id -u > $out")
        client.build(drv)
    assert Path(output).read_text() == "0\n"


@pytest.mark.root
def test_an_ordinary_user_needs_no_build_users(start_daemon: Start):
    """Nor does it get a warning; the build users that the options name are root's affair."""
    daemon = start_daemon(
        *HOST_PROGRAMS,
        "--build-users-group=guixbuild",
        kind=GuixDaemon,
        wrapper=("unshare", "--user", "--map-user=1000", "--map-group=1000"),
    )
    assert "warning" not in daemon.errors()
    with GuixClient(daemon.guix_socket) as client:
        drv, output = add_build(daemon, client, "who", "id -u > $out")
        client.build(drv)
    assert Path(output).read_text() == "30001\n"


def test_it_listens_wherever_it_is_told(start_daemon: Start, tmp_path: Path):
    """On several files and TCP addresses, and nowhere else; who comes over TCP is not trusted."""
    port = _free_port()
    words = [
        f"--listen={tmp_path}/one",
        f"--listen={tmp_path}/new/two",
        f"--listen=localhost:{port}",
    ]
    daemon = start_daemon(*words, kind=GuixDaemon)
    assert not os.path.exists(daemon.guix_socket)
    for path in ("one", "new/two"):
        with GuixClient(str(tmp_path / path)) as client:
            client.add_text("x", b"text")
    remote = socket.create_connection(("localhost", port))
    with GuixClient(remote) as client:
        path = client.add_text("x", b"text")
        with pytest.raises(RequestFailedError, match="privileged"):
            client.build(path, mode=BuildMode.REPAIR)


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def test_the_next_daemon_takes_the_socket_of_one_that_is_about_to_end(start_daemon: Start):
    """Scripts kill one and start the next at once."""
    first = start_daemon(kind=GuixDaemon)
    second = GuixDaemon(first.base, first.manager)
    second.start()
    second.wait_ready()
    try:
        assert first.stop() == 0
        with GuixClient(second.guix_socket) as client:
            client.add_text("x", b"text")
    finally:
        assert second.stop() == 0
    assert not os.path.exists(first.guix_socket)
