# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon with a content source: what the command line says of it, and a build that needs none."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from store.content_sources.scanner import SourceStatus, State
from storedaemon.cli.content_sources import source_lines
from storedaemon.wire.native.content_sources import parse_source, source_map
from tests.storedaemon.command_line import CommandLine

CONTENT = b"distributed on a disc\n"
STATUS = SourceStatus("/media/dvd", State.IDLE, 3, 2, 2048, 1_700_000_000, 0.25, "a\x1bb: bad")
SECONDS = 20


def run(daemon: Any, *arguments: str) -> str:
    """Run a command against a daemon; give its standard output."""
    done = CommandLine(daemon.native_socket)(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(daemon: Any, files: int) -> list[dict[str, Any]]:
    """Wait until the first source is known to have so many files."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        sources: list[dict[str, Any]] = json.loads(run(daemon, "content-sources", "--json"))
        if sources[0]["files"] == files and sources[0]["state"] == "idle":
            return sources
        time.sleep(0.05)
    raise AssertionError(sources)


@pytest.mark.slow
def test_a_daemon_finds_content_on_its_sources(
    start_daemon: Callable[..., Any], tmp_path: Path
) -> None:
    """Nothing is built, and people, programs and the log are told."""
    medium = tmp_path / "medium"
    medium.mkdir()
    (medium / "disc.txt").write_bytes(CONTENT)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[derivations.fetched]\nscript = '''#!/bin/sh\nexit 1\n'''\n"
        f'hash = "sha256:{sha256(CONTENT).hexdigest()}"\n'
    )
    absent = str(tmp_path / "absent")
    daemon = start_daemon("--content-source", str(medium), f"--content-source={absent}")
    first, second = wait_for(daemon, 1)
    assert (first["path"], second["path"]) == (str(medium), absent)
    assert (second["state"], second["files"]) == ("absent", 0)
    assert f"{medium}: idle\n  1 files" in run(daemon, "content-sources")
    out = run(daemon, "build", str(recipe)).strip()
    assert Path(out).read_bytes() == CONTENT
    assert f"from `{medium}/disc.txt'" in run(daemon, "log", out)
    [event] = [event for event in daemon.events() if event["event"] == "content_found"]
    assert (event["output"], event["source"]) == (out, f"{medium}/disc.txt")


def test_a_source_survives_the_wire():
    """Every field, by the names of the protocol."""
    assert parse_source(source_map(STATUS)) == STATUS
    assert parse_source(source_map(replace(STATUS, path="/m\udcff"))).path == "/m\ufffd"


def test_people_are_told_of_a_source():
    """What a medium's names hold cannot write on the terminal."""
    first, *lines = source_lines(STATUS)
    assert first == "/media/dvd: idle"
    assert lines[0] == "  3 files and 2 directories are known"
    assert lines[-1] == "  last problem: ab: bad"
