# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon in a storm of clients, and what is left of it afterwards.

``STORM_SECONDS`` says how long the storm lasts.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storedaemon.wire import messages as m
from tests.soundness import footprint, leaks, leftovers, unsound_items
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient
from tests.stress.storm import Storm, write_trees

SECONDS = float(os.environ.get("STORM_SECONDS", "20"))
MAX_GROWTH = 64 << 10
HOST_DIRECTORIES = ("/usr", "/bin", "/lib", "/lib64")

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(SECONDS + 180)]


def test_a_storm_of_clients_leaves_a_sound_store(
    start_daemon: Callable[..., RunningDaemon], tmp_path: Path
):
    """All answers were right, and nothing is left behind of what was broken off."""
    builds = tmp_path / "builds"
    builds.mkdir()
    write_trees(tmp_path)
    host = [f"--chroot-directory={path}" for path in HOST_DIRECTORIES if os.path.isdir(path)]
    daemon = start_daemon("--max-jobs=3", f"--build-directory={builds}", *host)
    calm = Storm(daemon, tmp_path, 2)
    calm.run()
    before = footprint(daemon)

    storm = Storm(daemon, tmp_path, SECONDS)
    storm.run()

    assert calm.wrong + storm.wrong == []
    assert len(storm.done) > 10, storm.done
    assert storm.done["collection"] > 5, storm.done
    assert leaks(daemon, before) == []
    assert leftovers(daemon, builds) == []
    with GuixClient(daemon.guix_socket) as client:
        assert median_reply(client, daemon.store) < 0.01
        assert client.call(m.VerifyStore(check_contents=True, repair=False)) == m.Truth(False)
    assert unsound_items(daemon) == []
    grown = footprint(daemon).resident - before.resident
    assert grown < MAX_GROWTH, f"{grown} KiB more than before"


def median_reply(client: GuixClient, store: str) -> float:
    """Measure how many seconds a trivial question takes."""
    times = []
    for _ in range(100):
        start = time.perf_counter()
        client.is_valid(f"{store}/{'0' * 32}-x")
        times.append(time.perf_counter() - start)
    return statistics.median(times)
