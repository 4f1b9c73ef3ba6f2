# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that looks for substitute servers lives as long as the daemon."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import RunningDaemon
from .guix_client import GuixClient

SECONDS = 20


def program(tmp_path: Path, text: str) -> tuple[str, ...]:
    """Make a program ``guix``, and give the options that use it for discovery alone."""
    path = tmp_path / "guix"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return ("--guix-program", str(path), "--no-offload", "--no-substitutes")


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_runs_while_the_daemon_does(start_daemon: Callable[..., RunningDaemon], tmp_path: Path):
    """It is started with the one argument, and ended with the daemon."""
    seen = tmp_path / "seen"
    options = program(tmp_path, f'echo "$*" > {seen}.new; mv {seen}.new {seen}; exec sleep 1000')
    daemon = start_daemon("--discover", *options)
    wait_for(seen.exists)
    assert seen.read_text() == "discover\n"
    assert daemon.stop() == 0


@pytest.mark.parametrize("text", ["echo no avahi >&2; exit 1", ""])
def test_its_end_is_reported_and_harms_nobody(
    start_daemon: Callable[..., RunningDaemon], tmp_path: Path, text: str
):
    """Without it the daemon works as well."""
    options = program(tmp_path, text)
    if not text:
        (tmp_path / "guix").unlink()
    daemon = start_daemon("--discover=yes", *options)
    wait_for(lambda: "discovery of substitute servers" in daemon.errors())
    with GuixClient(daemon.guix_socket) as client:
        client.add_text("x", b"text")


def test_it_is_not_started_unasked(start_daemon: Callable[..., RunningDaemon], tmp_path: Path):
    """Looking around in a network is for the owner to allow."""
    seen = tmp_path / "seen"
    daemon = start_daemon(*program(tmp_path, f"touch {seen}"))
    with GuixClient(daemon.guix_socket) as client:
        client.add_text("x", b"text")
    assert daemon.stop() == 0
    assert not seen.exists()
