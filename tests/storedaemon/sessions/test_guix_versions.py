# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of every minor version that Guix has had since 0x61, and of one before that.

The versions differ in the fields of SetOptions and in what clients know to ask for;
whatever they can ask has the same answer.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest

from storedaemon.wire import messages as m
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError

from .test_guix_builds import HOST, Recipes, failure, shape

pytestmark = pytest.mark.root

VERSIONS = (0x164, 0x163, 0x162, 0x161, 0x160)


def converse(daemon: RunningDaemon, version: int) -> dict[str, Any]:
    """Ask for a bit of everything, and give what was answered."""
    name = f"by-{version:x}"
    with GuixClient(daemon.guix_socket, version=version) as client:
        client.set_options(build_cores=2, build_repeat=0, multiplexed_build_output="true")
        recipes = Recipes(daemon, client)
        good, out = recipes.script(f"{name}-good", "echo $NIX_BUILD_CORES; echo done > $out")
        bad, _ = recipes.script(f"{name}-bad", "exit 7")
        client.build(good)
        told: dict[str, Any] = {"success": shape(client)}
        client.output.clear()
        told["failure"] = failure(client, bad), shape(client)
        info = client.path_info(out)
        told["info"] = info.nar_hash, info.nar_size, info.deriver == good, info.references
        with pytest.raises(RequestFailedError) as caught:
            client.path_info(f"{daemon.store}/{'0' * 32}-absent")
        told["error"] = caught.value.message, caught.value.status
        live = client.call(m.CollectGarbage(m.GarbageAction.RETURN_LIVE, (), False, 0))
        assert isinstance(live, m.GarbageReply)
        told["live"] = out in live.paths, live.bytes_freed
        told["roots"] = client.call(m.FindRoots())
        told["substitutes"] = client.call(m.QuerySubstitutablePaths((out,)))
        told["urls"] = client.call(m.SubstituteURLs())
        told["valid"] = client.is_valid(out), client.is_valid(f"{daemon.store}/{'0' * 32}-x")
    return told


def alike(told: dict[str, Any], version: int) -> str:
    """Show what was told without what differs between derivations of different names."""
    text = repr(told).replace(f"by-{version:x}", "by-VERSION")
    text = re.sub(r"[0-9a-z]{32}-", "HASH-", text)
    text = re.sub(r"LOGS/\w\w", "LOGS/", text)
    return re.sub(r"build-log \d+", "build-log PID", text)


def test_every_version_is_told_the_same(start_daemon: Callable[..., RunningDaemon]):
    """Builds, failures with their status, queries, roots, errors: nothing depends on it."""
    daemon = start_daemon("--no-substitutes", *HOST, environment={"GUIX": ""})
    first = alike(converse(daemon, VERSIONS[0]), VERSIONS[0])
    assert "exit code 7" in first
    assert "100)" in first
    for version in VERSIONS[1:]:
        assert alike(converse(daemon, version), version) == first


@pytest.mark.parametrize("version", VERSIONS)
def test_old_fields_and_new_names_set_the_same(
    start_daemon: Callable[..., RunningDaemon], version: int
):
    """Before 0x61 the number of cores was a field; since then it is a name and a value."""
    daemon = start_daemon("--no-substitutes", *HOST)
    with GuixClient(daemon.guix_socket, version=version) as client:
        recipes = Recipes(daemon, client)
        old = version < 0x161
        client.call(
            m.SetOptions(
                keep_failed=False,
                keep_going=False,
                fallback=False,
                verbosity=0,
                settings=() if old else (("build-cores", "3"), ("build-max-silent-time", "1")),
                max_jobs=1 if old else None,
                max_silent_time=1 if old else None,
                build_cores=3 if old else None,
            )
        )
        drv, _ = recipes.script("cores", "echo cores: $NIX_BUILD_CORES; sleep 1000")
        assert failure(client, drv)[1] == 101
        assert "cores: 3" in client.text
