# SPDX-License-Identifier: GPL-3.0-or-later
"""Collections that ask ``guix gc --list-busy`` what running processes use."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storedaemon.wire import messages as m
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError

NO_LIMIT = 2**64 - 1

# It gives away how it was called, and then does what the test has written down.
STUB = """#!/bin/sh
echo "$@" >> {base}/calls
. {base}/script
"""

Collect = Callable[[], frozenset[str]]


@pytest.fixture
def guix(tmp_path: Path) -> Path:
    """A program in the place of ``guix``, whose behaviour is the file ``script``."""
    program = tmp_path / "guix"
    program.write_text(STUB.format(base=tmp_path))
    program.chmod(0o755)
    return program


@pytest.fixture
def daemon(start_daemon: Callable[..., RunningDaemon], guix: Path) -> RunningDaemon:
    """A daemon that has that program."""
    return start_daemon("--guix-program", str(guix), "--no-substitutes", "--no-offload")


def garbage(daemon: RunningDaemon, *names: str) -> list[str]:
    """Add items that nobody keeps."""
    with GuixClient(daemon.guix_socket) as client:
        return [client.add_text(name, name.encode()) for name in names]


def collect(daemon: RunningDaemon) -> frozenset[str]:
    """Delete all garbage; give what was deleted."""
    with GuixClient(daemon.guix_socket) as client:
        wish = m.CollectGarbage(m.GarbageAction.DELETE_DEAD, (), False, NO_LIMIT)
        reply = client.call(wish)
        assert isinstance(reply, m.GarbageReply)
        return frozenset(reply.paths)


def test_what_the_program_names_is_kept(daemon: RunningDaemon, guix: Path):
    """An item, one by a file in it, and nothing by what is no item."""
    named, inside, other = garbage(daemon, "named", "inside", "other")
    lines = (named, f"{inside}/bin/tool", "/etc/passwd", f"{daemon.store}/", "a word")
    (guix.parent / "script").write_text("\n".join(f"echo '{line}'" for line in lines))
    assert collect(daemon) == {other}
    assert os.path.exists(named)
    assert (guix.parent / "calls").read_text() == "gc --list-busy\n"


def test_nothing_is_deleted_while_nobody_knows_what_is_used(daemon: RunningDaemon, guix: Path):
    """Where the program fails, the client is told how, and with what words."""
    (item,) = garbage(daemon, "item")
    (guix.parent / "script").write_text("echo no such luck >&2; exit 3")
    with pytest.raises(RequestFailedError, match="list-busy' exited with code 3: no such luck"):
        collect(daemon)
    assert os.path.exists(item)
    (guix.parent / "script").write_text("")
    assert collect(daemon) == {item}
