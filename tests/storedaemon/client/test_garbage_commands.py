# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `gc` and `roots`, against a real daemon."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.storedaemon.command_line import CommandLine


@pytest.fixture
def run(daemon: Any) -> CommandLine:
    """Run a command against the daemon."""
    return CommandLine(daemon.native_socket)


@pytest.fixture
def item(run: CommandLine, tmp_path: Path) -> str:
    """An item that nothing keeps."""
    (tmp_path / "file").write_text("content")
    return run("add", str(tmp_path / "file")).stdout.strip()


def test_garbage_is_deleted_unless_a_link_keeps_it(run: CommandLine, item: str, tmp_path: Path):
    """`roots` tells of the link, and why the item is there."""
    link = tmp_path / "link"
    link.symlink_to(item)
    assert run("roots", "--add", str(link)).returncode == 0
    assert run("roots").stdout == f"{link} -> {item}\n"
    assert run("roots", item).stdout == f"{item}\n  kept by the link {link}\n    {item}\n"
    assert run("gc").stdout == "0 items were deleted, 0 bytes freed\n"
    refused = run("gc", "--delete", item)
    assert refused.returncode == 1
    assert f"cannot delete path `{item}' since it is still alive" in refused.stderr
    link.unlink()
    assert run("roots", item).stdout == f"{item}\n  nothing keeps it\n"
    assert run("gc", "--dry-run").stdout == f"{item}\n1 items would be deleted, 7 bytes freed\n"
    assert run("gc", "--older-than", "1d").stdout == "0 items were deleted, 0 bytes freed\n"
    assert run("gc", "--quiet").stdout == "1 items were deleted, 7 bytes freed\n"
    assert not os.path.exists(item)


def test_programs_get_json(run: CommandLine, item: str, daemon: Any):
    """An object for each event, and one for the end."""
    os.symlink(item, f"{daemon.state}/gcroots/link")
    link = f"{daemon.state}/gcroots/link"
    assert json.loads(run("--json", "roots").stdout) == [{"link": link, "path": item}]
    reason = {"kind": "link", "link": link, "chain": [item]}
    assert json.loads(run("roots", "--json", item).stdout) == {item: [reason]}
    os.unlink(link)
    events = [json.loads(line) for line in run("gc", "--json").stdout.splitlines()]
    assert {"event": "deleted", "paths": [item], "freed": 7} in events
    assert (events[-1]["event"], events[-1]["deleted"], events[-1]["freed"]) == ("done", 1, 7)


@pytest.mark.parametrize("wrong", [["--limit", "10X"], ["--older-than", "d"], ["--free=-1"]])
def test_sizes_and_times_need_sense(run: CommandLine, wrong: list[str]):
    """What is none is refused before anything is asked."""
    assert run("gc", *wrong).returncode == 2
