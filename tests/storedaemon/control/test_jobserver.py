# SPDX-License-Identifier: GPL-3.0-or-later
"""Job tokens of a real daemon."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storedaemon.control.conftest import SECONDS, Site

FILES = {
    "group": "root:x:0:\nbuilders:x:64300:one,two\n",
    "passwd": "root:x:0:0::/:/bin/sh\none:x:64301:64300::/:/x\ntwo:x:64302:64300::/:/x\n",
}


@pytest.fixture(params=["root", "users", "rootless"])
def shared(request: pytest.FixtureRequest, make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """A daemon with three tokens, whose builders are one user or another."""
    options, wrapper = ["--jobserver", "--jobserver-tokens=3"], list[str]()
    if request.param == "users":
        for name, text in FILES.items():
            (tmp_path / name).write_text(text)
        mounts = " && ".join(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in FILES)
        wrapper = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
        options.append("--build-users-group=builders")
    elif request.param == "rootless":
        wrapper = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    return make_site(*options, wrapper=wrapper)


@pytest.mark.root
@pytest.mark.slow
def test_statistics_tell_who_has_the_tokens(shared: Site):
    """The build's own, one that it has read, and one that lies unread."""
    site = shared
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
