# SPDX-License-Identifier: GPL-3.0-or-later
"""The service files: read by the programs that they are for, or run, as far as a test can."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import storedaemon
from tests.storedaemon.conftest import RunningDaemon, start_daemon
from tests.storedaemon.guix_client import GuixClient
from tests.storedaemon.guix_daemon.test_program import GuixDaemon
from tests.storedaemon.test_daemon import HOST_PROGRAMS, add_build

__all__ = ["start_daemon"]

CONTRIB = Path(storedaemon.__file__).parents[1] / "contrib"
SCRIPTS = ("guix-daemon", "sysvinit/guix-daemon", "openrc/guix-daemon")
UNITS = sorted(path.name for path in (CONTRIB / "systemd").iterdir())


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_read_and_executed(name: str) -> None:
    """The shell has nothing to say against them."""
    result = subprocess.run(["sh", "-n", CONTRIB / name], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert os.access(CONTRIB / name, os.X_OK)


@needs("systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_its_units(name: str, tmp_path: Path) -> None:
    """Every setting is known, and every value good, once the program is where the unit says."""
    program = tmp_path / "daemon"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS:
        text = (CONTRIB / "systemd" / unit).read_text()
        for known in ("/opt/storedaemon/contrib/guix-daemon", "/usr/local/bin/storedaemon"):
            text = text.replace(f"ExecStart={known}", f"ExecStart={program}")
        (tmp_path / unit).write_text(text)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (result.returncode, result.stderr) == (0, "")


SHEPHERD = """
(define-module (shepherd service)
  #:export (service make-forkexec-constructor make-kill-destructor
            default-environment-variables register-services))
(define (default-environment-variables) '("PATH=/bin"))
(define* (make-forkexec-constructor command #:key environment-variables log-file)
  (list command environment-variables log-file))
(define* (make-kill-destructor #:optional signal #:key grace-period) grace-period)
(define* (service provision #:key documentation requirement start stop respawn?)
  (list provision start stop))
(define (register-services services) (write services))
"""


@needs("guile")
def test_guile_understands_the_shepherds_service(tmp_path: Path) -> None:
    """With a module that has the Shepherd's interface, it registers what it should."""
    (tmp_path / "shepherd").mkdir()
    (tmp_path / "shepherd" / "service.scm").write_text(SHEPHERD)
    result = subprocess.run(
        ["guile", "--no-auto-compile", "-L", tmp_path, CONTRIB / "shepherd/guix-daemon.scm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        '(((guix-daemon) (("/opt/storedaemon/contrib/guix-daemon"'
        ' "--build-users-group=guixbuild") ("LC_ALL=C.UTF-8" "PATH=/bin")'
        ' "/var/log/guix-daemon.log") 60))'
    )


class Init:
    """Calls the script as sysvinit does."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.options = "--no-substitutes"

    def __call__(self, verb: str, **changes: str) -> int:
        """Give the exit code."""
        daemon = GuixDaemon(self.base, None)  # type: ignore[arg-type] - it has no manager
        environment = daemon.variables() | {
            "GUIX_DAEMON": str(CONTRIB / "guix-daemon"),
            "GUIX_DAEMON_OPTIONS": self.options,
            "GUIX_DAEMON_LOG": str(self.base / "stderr"),
            "GUIX_DAEMON_PIDFILE": str(self.base / "pid"),
            **changes,
        }
        command = ["sh", str(CONTRIB / "sysvinit/guix-daemon"), verb]
        return subprocess.run(command, env=environment, check=False, timeout=60).returncode


@pytest.fixture
def init() -> Iterator[Init]:
    """The script, for a daemon with a store of its own."""
    script = Init(Path(tempfile.mkdtemp(prefix="sd-")))
    yield script
    script("stop")
    shutil.rmtree(script.base)


@pytest.mark.root
@pytest.mark.whole
@needs("start-stop-daemon")
def test_the_sysvinit_script_runs_a_daemon(init: Init) -> None:
    """Exit codes are the Linux Standard Base's; starting and stopping twice is no mistake."""
    assert init("status") == 3
    assert init("stop") == 0
    assert init("start") == 0
    assert init("status") == 0
    pid = (init.base / "pid").read_text()
    assert init("start") == 0
    assert (init.base / "pid").read_text() == pid
    with GuixClient(f"{init.base}/state/daemon-socket/socket") as client:
        client.add_text("x", b"text")
    assert init("restart") == 0
    assert (init.base / "pid").read_text() != pid
    assert init("stop") == 0
    assert init("status") == 3
    assert not os.path.exists(f"/proc/{pid.strip()}")
    assert init("dance") == 2


@pytest.mark.root
@pytest.mark.whole
@needs("start-stop-daemon")
def test_the_sysvinit_script_tells_of_a_failed_start(init: Init) -> None:
    """A daemon that ends at once was not started; a missing one is not installed."""
    init.options = "--bogus"
    assert init("start") == 1
    assert init("status") == 3
    assert init("start", GUIX_DAEMON="/nonexistent/guix-daemon") == 5


@pytest.mark.root
@needs("setpriv")
def test_the_capabilities_of_the_unit_suffice(
    start_daemon: Callable[..., RunningDaemon],
    tmp_path: Path,
) -> None:
    """Build users, containers, and keeping what failed: all within the unit's bounds."""
    text = (CONTRIB / "systemd" / "guix-daemon.service").read_text()
    names = [
        name.removeprefix("CAP_").lower()
        for line in text.splitlines()
        if line.startswith("CapabilityBoundingSet=")
        for name in line.partition("=")[2].split()
    ]
    (tmp_path / "group").write_text("root:x:0:\nbuilders:x:64300:one\n")
    (tmp_path / "passwd").write_text("root:x:0:0::/:/bin/sh\none:x:64301:64300::/:/x\n")
    mounts = [f"mount --bind {tmp_path}/{file} /etc/{file}" for file in ("group", "passwd")]
    bounds = ",".join(["-all", *[f"+{name}" for name in names]])
    script = f'{" && ".join(mounts)} && exec setpriv --no-new-privs --bounding-set {bounds} "$@"'
    daemon = start_daemon(
        *("--build-users-group=builders", *HOST_PROGRAMS),
        kind=GuixDaemon,
        wrapper=("unshare", "--mount", "sh", "-c", script, "sh"),
    )
    bounding = Path(f"/proc/{daemon.pid}/status").read_text().partition("CapBnd:")[2].split()[0]
    assert 0 < int(bounding, 16).bit_count() <= len(names)
    with GuixClient(daemon.guix_socket) as client:
        drv, output = add_build(daemon, client, "who", "id -u > $out")
        client.build(drv)
        assert Path(output).read_text() == "64301\n"
        assert os.stat(output).st_uid == 0
    assert sys.executable in Path(f"/proc/{daemon.pid}/cmdline").read_text()
