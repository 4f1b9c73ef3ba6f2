# SPDX-License-Identifier: GPL-3.0-or-later
"""What the names and values of SetOptions do to real builds, and who may send them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storedaemon.wire import messages as m
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError

from .test_guix_builds import HOST, Recipes, failure

pytestmark = pytest.mark.root


NOBODY = 65534


@pytest.fixture
def building(start_daemon: Callable[..., RunningDaemon]) -> RunningDaemon:
    """A daemon whose builders may use the machine's shell."""
    return start_daemon(*HOST)


@pytest.fixture
def client(building: RunningDaemon) -> Iterator[GuixClient]:
    """A client of root's, who is trusted."""
    with GuixClient(building.guix_socket) as client:
        yield client


@pytest.fixture
def recipes(building: RunningDaemon, client: GuixClient) -> Recipes:
    """A way to add derivations."""
    return Recipes(building, client)


@contextmanager
def stranger(daemon: RunningDaemon) -> Iterator[GuixClient]:
    """Connect as a user who is not trusted."""
    os.seteuid(NOBODY)
    try:
        found = GuixClient(daemon.guix_socket)
    finally:
        os.seteuid(0)
    with found:
        yield found


def failed_paths(client: GuixClient) -> set[str]:
    """The failures that the daemon remembers."""
    reply = client.call(m.QueryFailedPaths())
    assert isinstance(reply, m.TextsReply)
    return set(reply.values)


def log_of(daemon: RunningDaemon, drv: str) -> Path:
    """Where the log of a build is, if it is kept."""
    name = os.path.basename(drv)
    return Path(daemon.state, "log/drvs", name[:2], f"{name[2:]}.gz")


def test_a_trusted_client_decides_how_its_builds_are_kept(
    building: RunningDaemon, client: GuixClient, recipes: Recipes
):
    """Failures are remembered and logs lost because it says so; and then no longer."""
    first, out = recipes.script("first", "exit 1")
    client.set_options(build_cache_failure="true", build_keep_log="false")
    failure(client, first)
    assert failed_paths(client) == {out}
    assert not log_of(building, first).exists()
    second, _ = recipes.script("second", "exit 1")
    client.set_options(build_cache_failure="false", build_keep_log="true")
    failure(client, second)
    assert failed_paths(client) == {out}
    assert log_of(building, second).exists()


def test_a_trusted_client_limits_its_logs(client: GuixClient, recipes: Recipes):
    """A build that prints more is ended."""
    drv, _ = recipes.script("chatty", "while :; do echo 0123456789; done")
    client.set_options(build_max_log_size=10_000)
    failure(client, drv)
    assert "10000" in client.text


def test_an_untrusted_clients_wishes_of_that_kind_change_nothing(
    building: RunningDaemon, recipes: Recipes
):
    """They are taken without an error, as Guix's client sends them whoever runs it."""
    drv, _ = recipes.script("plain", "exit 1")
    with stranger(building) as client:
        client.set_options(build_cache_failure="true", build_keep_log="what?")
        failure(client, drv)
        assert failed_paths(client) == set()
    assert log_of(building, drv).exists()


def test_everybody_may_limit_their_builds(building: RunningDaemon, recipes: Recipes):
    """Time, silence, cores and repetition are nobody else's business."""
    slow, _ = recipes.script("slow", "sleep 1000")
    cores, out = recipes.script("cores", "echo $NIX_BUILD_CORES > $out")
    with stranger(building) as client:
        client.set_options(build_timeout=1, build_cores=3)
        assert failure(client, slow)[1] == 101
        client.build(cores)
        with pytest.raises(RequestFailedError, match="`build-cores' should have an integer"):
            client.set_options(build_cores="many")
        assert client.is_valid(out)
    assert Path(out).read_text() == "3\n"
