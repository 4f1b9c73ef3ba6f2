# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon that may substitute, a program that serves substitutes, and a client."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient
from tests.storedaemon.substitutes.bench import Recipes, use
from tests.storedaemon.substitutes.server import Shelf, archive_of

StartDaemon = Callable[..., RunningDaemon]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """What can be substituted."""
    return Shelf(tmp_path)


@pytest.fixture
def daemon(start_daemon: StartDaemon, shelf: Shelf) -> RunningDaemon:
    """A daemon that may substitute, and builds outside a container."""
    return start_daemon("--no-offload", "--disable-chroot", environment=shelf.environment)


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[GuixClient]:
    """A client that wants substitutes, and traces."""
    with GuixClient(daemon.guix_socket) as made:
        use(made)
        yield made


@pytest.fixture
def recipes(client: GuixClient, daemon: RunningDaemon) -> Recipes:
    """Adds derivations."""
    script = daemon.base / "interpret"
    script.write_text('#!/bin/sh -e\nexport PATH=/bin:/usr/bin\neval "$1"\n')
    script.chmod(0o755)
    return Recipes(client, daemon, client.add_nar("interpret", [archive_of(script)]))
