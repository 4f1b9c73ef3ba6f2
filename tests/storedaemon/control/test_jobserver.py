# SPDX-License-Identifier: GPL-3.0-or-later
"""Job tokens of a real daemon."""

import time
from collections.abc import Callable

from tests.storedaemon.control.conftest import SECONDS, Site


def test_statistics_tell_who_has_the_tokens(make_site: Callable[..., Site]):
    """The build's own, one that it has read, and one that lies unread."""
    site = make_site("--jobserver", "--jobserver-tokens=3")
    drv = site.describe("taker", "head -c 1 /etc/jobserver > $out; await go")["path"]
    assert site.run("build", "--detach", drv).returncode == 0
    client = site.client()
    wanted = {"tokens": 3, "builds": 1, "lent": 2, "unread": 1, "free": 0}
    end = time.monotonic() + SECONDS
    while (found := client.ask("stats")["jobserver"]) != wanted:
        assert time.monotonic() < end, found
        time.sleep(0.02)
    site.open("go")
    site.until(lambda goals: not goals)
    assert client.ask("stats")["jobserver"] == {
        **wanted,
        "builds": 0,
        "lent": 0,
        "unread": 0,
        "free": 3,
    }
    assert "jobserver: tokens 3, " in site.run("stats").stdout


def test_there_are_none_unless_they_are_asked_for(site: Site):
    """Nothing is counted then."""
    assert "jobserver" not in site.client().ask("stats")
