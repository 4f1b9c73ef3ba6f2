# SPDX-License-Identifier: GPL-3.0-or-later
"""Offloaded builds as clients of a real daemon see them; the build hook is a program."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storedaemon.command_line import CommandLine
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient
from tests.storedaemon.sessions.test_guix_builds import (
    HOST,
    SYSTEM,
    Recipes,
    failure,
    relative,
    shape,
)

STUB = Path(__file__).parents[2] / "builder/real/stub_hook.py"

pytestmark = pytest.mark.root

StartFarm = Callable[..., RunningDaemon]


@pytest.fixture
def start_farm(start_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> StartFarm:
    """Starts a daemon with a build hook that follows a plan."""

    def start(*steps: str, options: tuple[str, ...] = ()) -> RunningDaemon:
        (tmp_path / "plan").write_text("".join(f"{step}\n" for step in steps))
        program = tmp_path / "guix"
        program.write_text(f"#!{sys.executable} -I\n{STUB.read_text()}")
        program.chmod(0o755)
        environment = {
            "GUIX": str(program),
            "STUB_PLAN": str(tmp_path / "plan"),
            "GUIX_DATABASE_DIRECTORY": tempfile.mkdtemp(dir=tmp_path),
        }
        return start_daemon("--no-substitutes", *HOST, *options, environment=environment)

    return start


def test_a_guix_client_sees_what_it_would_of_the_reference(start_farm: StartFarm):
    """The hook's words, then the build as any other; its pid is the hook's."""
    daemon = start_farm("accept build")
    with GuixClient(daemon.guix_socket) as client:
        client.set_options()
        drv, out = Recipes(daemon, client).script("demo", "echo here > $out")
        client.build(drv)
        lines = shape(client)
        hashed = relative(drv).removeprefix("STORE/")
        assert lines[:2] == [
            "looking for a machine",
            f"@ build-started {relative(drv)} - {SYSTEM} LOGS/{hashed}.gz PID",
        ]
        assert sorted(lines[2:4]) == [
            f"@ build-remote {relative(drv)} far-away",
            f"building {hashed} far away",
        ]
        assert lines[4:] == [f"@ build-succeeded {relative(drv)} -"]
        assert client.is_valid(out)
        assert client.path_info(out).deriver == drv


@pytest.mark.parametrize(
    ("code", "trace", "status"),
    [
        (100, "build-failed {} - 1 {}", 100),
        (101, "build-failed {} - timeout", 101),
        (7, "hook-failed {} - 1792 {}", 1),
    ],
)
def test_failures_have_the_references_traces_and_statuses(
    start_farm: StartFarm, code: int, trace: str, status: int
):
    """The daemon adds no words of its own: the hook has said what went wrong."""
    daemon = start_farm(f"accept fail {code}")
    with GuixClient(daemon.guix_socket) as client:
        client.set_options()
        drv, _ = Recipes(daemon, client).script("demo", "echo here > $out")
        assert failure(client, drv) == (f"build of `{drv}' failed", status)
        text = f"builder for `{relative(drv)}' failed with exit code {code}"
        assert shape(client)[-1] == f"@ {trace.format(relative(drv), text)}"
        assert shape(client).count(text) == 0


def test_daemon_and_clients_can_do_without(start_farm: StartFarm, tmp_path: Path):
    """By the daemon's option, a Guix client's, and that of a native client's command."""
    daemon = start_farm("accept build")
    with GuixClient(daemon.guix_socket) as client:
        client.set_options(use_build_hook=False)
        recipes = Recipes(daemon, client)
        client.build(recipes.script("guix", "echo here > $out")[0])
        drv, out = recipes.script("native", "echo here > $out")
    done = CommandLine(daemon.native_socket)("build", "--no-offload", drv)
    assert done.returncode == 0, done.stderr
    assert Path(out).read_text() == "here\n"
    other = start_farm("accept build", options=("--no-offload",))
    with GuixClient(other.guix_socket) as client:
        client.set_options()
        client.build(Recipes(other, client).script("daemon", "echo here > $out")[0])
    assert not (tmp_path / "plan.told").exists()
