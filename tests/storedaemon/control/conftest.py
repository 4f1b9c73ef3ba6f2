# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds of a real daemon that tests hold up and let go on."""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.storedaemon.command_line import CommandLine
from tests.storedaemon.native.conftest import PlainClient

HOST_DIRECTORIES = ("/usr", "/bin", "/lib", "/lib64")
SECONDS = 20


@dataclass
class Site:
    """A daemon, and a directory that its builds see: a file there lets one go on."""

    daemon: Any
    gates: Path
    clients: list[PlainClient]

    def client(self, uid: int | None = None) -> PlainClient:
        """Connect, as somebody else if a user is named; the kernel tells the effective one."""
        own = os.geteuid()
        os.seteuid(own if uid is None else uid)
        try:
            sock = self.daemon.connect_native()
        finally:
            os.seteuid(own)
        client = PlainClient(sock)
        client.sock.settimeout(SECONDS)
        client.greet()
        self.clients.append(client)
        return client

    def describe(self, name: str, script: str, **more: Any) -> dict[str, Any]:
        """Add a derivation; in its script `await NAME` waits until `open` of that name."""
        client = self.client()
        text = f"#!/bin/sh\nawait() {{ until [ -e {self.gates}/$1 ]; do sleep 0.02; done; }}\n"
        builder = client.add_script(f"{name}-builder", f"{text}{script}\n")
        env = {"PATH": "/usr/bin:/bin", **more.pop("env", {})}
        return client.ask(
            "add-derivation", name=name, builder=builder, sources=[builder], env=env, **more
        )

    def open(self, gate: str) -> None:
        """Let builds go on that wait for a gate."""
        (self.gates / gate).touch()

    @property
    def run(self) -> CommandLine:
        """Run a command to its end."""
        return CommandLine(self.daemon.native_socket, {"TERM": "xterm"})

    def goals(self) -> dict[str, dict[str, Any]]:
        """What the daemon is busy with, by the names of derivations."""
        found = self.client().ask("ps")["goals"]
        return {re.sub(r".*/[^-]+-(.*)\.drv$", r"\1", goal["drv"]): goal for goal in found}

    def until(self, condition: Callable[[dict[str, dict[str, Any]]], object]) -> dict[str, Any]:
        """Wait until something holds of the goals; give them."""
        end = time.monotonic() + SECONDS
        while not condition(goals := self.goals()):
            assert time.monotonic() < end, goals
            time.sleep(0.02)
        return goals


@pytest.fixture
def make_site(start_daemon: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Start daemons whose builds can be held up."""
    gates = tmp_path / "gates"
    gates.mkdir()
    for directory in (gates, *gates.parents[:3]):
        directory.chmod(0o755)
    clients: list[PlainClient] = []

    def make(*options: str, **how: Any) -> Site:
        seen = [*filter(os.path.isdir, HOST_DIRECTORIES), str(gates)]
        daemon = start_daemon(*(f"--chroot-directory={path}" for path in seen), *options, **how)
        return Site(daemon, gates, clients)

    yield make
    for client in clients:
        client.sock.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A daemon that builds one thing at a time."""
    return make_site("--max-jobs=1")
