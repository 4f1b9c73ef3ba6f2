# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the program guix is looked for, and what it is told."""

from pathlib import Path

from storedaemon.config import COMMAND_LINE, Source, environment_source, make_config
from storedaemon.guix_program import find_guix, guix_environment


def found(environment: dict[str, str], **options: str) -> str:
    """Find guix in an environment, with options on the command line."""
    said = Source(COMMAND_LINE, {"state": "/state", **options})
    return find_guix(make_config([said, environment_source(environment)]), environment)


def test_the_option_goes_before_the_environment():
    """And within that, GUIX before the directory of programs."""
    variables = {"GUIX": "/a/guix", "NIX_BIN_DIR": "/b"}
    assert found(variables, **{"guix-program": "/c/guix"}) == "/c/guix"
    assert found(variables) == "/a/guix"
    assert found({"NIX_BIN_DIR": "/b"}) == "/b/guix"


def test_else_it_is_on_the_path_or_what_root_pulled(tmp_path: Path):
    """An empty PATH leaves the latter."""
    program = tmp_path / "guix"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert found({"PATH": str(tmp_path)}) == str(program)
    assert found({"PATH": ""}) == "/state/profiles/per-user/root/current-guix/bin/guix"


def test_it_works_on_the_store_that_we_serve():
    """Whether that was said on the command line or not."""
    config = make_config([Source(COMMAND_LINE, {"store": "/s", "state": "/state"})])
    told = guix_environment(config, {"PATH": "/bin", "NIX_STORE_DIR": "/other"})
    assert told == {
        "PATH": "/bin",
        "NIX_STORE_DIR": "/s",
        "GUIX_STATE_DIRECTORY": "/state",
        "GUIX_DATABASE_DIRECTORY": "/state/db",
        "GUIX_LOG_DIRECTORY": "/state/log",
        "GUIX_CONFIGURATION_DIRECTORY": "/state/etc",
    }
