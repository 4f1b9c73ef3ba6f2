# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying items from store to store: the client library and the commands."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.errors import StoreError
from storedaemon.client.client import connect
from storedaemon.client.errors import DaemonError
from tests.storedaemon import exporting
from tests.storedaemon.command_line import CommandLine

MIB = 1 << 20

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A configuration directory, with a key."""
    exporting.make_keys(str(tmp_path / "etc"))
    return tmp_path / "etc"


@pytest.fixture
def daemon(start_daemon: Callable[..., Any], etc: Path) -> Any:
    """A daemon with a key, which it accepts."""
    return start_daemon("--configuration-directory", str(etc), "--guix-program", "/nonexistent")


@pytest.fixture
def run(daemon: Any, etc: Path) -> Run:
    """Run a command that reads or prints bytes."""
    variables = {"GUIX_CONFIGURATION_DIRECTORY": str(etc), "NIX_STORE_DIR": daemon.store}
    return CommandLine(daemon.native_socket, variables).binary


async def test_the_client_exports_and_imports(daemon: Any):
    """A closure goes out in pieces and comes in again."""
    async with connect(daemon.native_socket) as client:
        first = await client.add_text("first", os.urandom(300_000))
        second = await client.add_text("second", b"2", [first])
        async with client.export([second], closure=True) as export:
            pieces = [piece async for piece in export]
        assert export.paths == [first, second]
        assert len(pieces) > 4
        assert await client.import_items(pieces) == [first, second]
        with pytest.raises(DaemonError, match="lacks a signature"):
            async with client.export([first], sign=False) as export:
                await client.import_items([piece async for piece in export])
        with pytest.raises(StoreError, match="is not valid"):
            async with client.export([f"{daemon.store}/{'0' * 32}-x"]) as export:
                _ = [piece async for piece in export]


def peak_memory(pid: int) -> int:
    """The most memory that a process has had at once, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.slow
async def test_a_large_item_needs_no_memory(daemon: Any, tmp_path: Path):
    """It goes out and in while the daemon's memory stays as it was."""
    large, exported = tmp_path / "large", tmp_path / "exported"
    large.touch()
    os.truncate(large, 256 * MIB)
    async with connect(daemon.native_socket) as client:
        path = await client.add_path(str(large), "large")
        before = peak_memory(daemon.pid)
        with exported.open("wb") as file:
            async with client.export([path]) as export:
                async for piece in export:
                    file.write(piece)
        with exported.open("rb") as file:
            pieces = iter(lambda: file.read(MIB), b"")
            assert await client.import_items(pieces) == [path]
    assert exported.stat().st_size > 256 * MIB
    assert peak_memory(daemon.pid) - before < 32 * MIB


@pytest.mark.slow
def test_the_commands_export_and_import(run: Run, tmp_path: Path):
    """Through standard output and input; paths are printed as lines or JSON."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(100_000))
    item = run("add", str(file)).stdout.decode().strip()
    exported = run("export", "-r", item)
    assert (exported.returncode, exported.stderr) == (0, b"")
    imported = run("import", given=exported.stdout)
    assert (imported.stdout.decode(), imported.stderr) == (f"{item}\n", b"")
    assert json.loads(run("import", "--json", given=exported.stdout).stdout) == [item]
    unsigned = run("export", "--no-sign", item)
    refused = run("import", given=unsigned.stdout)
    assert refused.returncode == 1
    assert b"lacks a signature" in refused.stderr
    cut = run("import", given=exported.stdout[:-1])
    assert (cut.returncode, b"unexpected end-of-file" in cut.stderr) == (1, True)


@pytest.mark.slow
def test_the_commands_change_whose_signatures_count(run: Run, etc: Path, tmp_path: Path):
    """A key is accepted from a file or standard input, once; and a pair is made, once."""
    exporting.make_keys(str(tmp_path / "other"))
    file = tmp_path / "other/signing-key.pub"
    assert run("import-key", str(file)).stderr == b""
    assert len((etc / "acl").read_text().split("entry")) == 3
    again = run("import-key", "-", given=file.read_bytes())
    assert (again.returncode, again.stderr) == (0, b"the key was accepted already\n")
    assert json.loads(run("import-key", "--json", str(file)).stdout) == {"added": False}
    bad = run("import-key", str(etc / "signing-key.sec"))
    assert (bad.returncode, b"does not denote a public key" in bad.stderr) == (1, True)
    assert run("import-key", "/nonexistent").returncode == 1
    assert b"remove it first" in run("generate-key").stderr
    new = tmp_path / "new"
    made = run("generate-key", "--configuration-directory", str(new))
    assert made.stdout.decode() == f"{new}/signing-key.pub\n"
    assert (new / "signing-key.sec").stat().st_mode & 0o777 == 0o400
