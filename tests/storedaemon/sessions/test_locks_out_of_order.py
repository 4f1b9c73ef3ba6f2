# SPDX-License-Identifier: GPL-3.0-or-later
"""Lock files that cannot be locked: clients are told which, and why."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from store.paths import StoreDirectory
from storedaemon.client.client import connect
from storedaemon.client.errors import DaemonError
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError
from tests.storedaemon.sessions.test_guix_builds import HOST, Recipes

TEXT = b"nobody can add this"


@pytest.fixture
def spoilt(start_daemon: Callable[..., RunningDaemon]) -> RunningDaemon:
    """A daemon in whose store a directory has the name of a text's lock file."""
    daemon = start_daemon(*HOST)
    path = StoreDirectory(daemon.store).text_path("text", sha256(TEXT).digest(), frozenset())
    os.mkdir(f"{path}.lock")
    return daemon


def test_a_guix_client_is_told_the_lock_file(spoilt: RunningDaemon):
    """Not of an internal error; and it may go on."""
    with GuixClient(spoilt.guix_socket) as client:
        with pytest.raises(RequestFailedError, match=r"opening lock file `.*-text.lock': Is a dir"):
            client.add_text("text", TEXT)
        assert Path(client.add_text("other", TEXT)).read_bytes() == TEXT


async def test_a_native_client_is_told_the_reason_too(spoilt: RunningDaemon):
    """As a word for programs."""
    async with connect(spoilt.native_socket) as client:
        with pytest.raises(DaemonError, match=r"opening lock file .*-text.lock") as caught:
            await client.add_text("text", TEXT)
        assert caught.value.reason == "lock"


@pytest.mark.root
def test_a_build_fails_by_the_lock_file(spoilt: RunningDaemon):
    """The message names the output's."""
    with GuixClient(spoilt.guix_socket) as client:
        client.set_options()
        drv, out = Recipes(spoilt, client).script("demo", "echo >$out")
        os.mkdir(f"{out}.lock")
        with pytest.raises(RequestFailedError, match=r"build of .* failed"):
            client.build(drv)
        assert f"opening lock file `{out}.lock': Is a directory\n" in client.text
