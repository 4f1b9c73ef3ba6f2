# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds that survive their clients, and those who come back to them."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_a_detached_build_survives_its_client(site: Any):
    """It goes on when the connection ends; whoever attaches sees what goes on, and its end."""
    drv = site.describe("long", "echo one; await go; echo two; echo made > $out")
    client = site.client()
    number = client.ask("build", targets=[drv["path"]], detach=True)["detached"]
    client.sock.close()
    goals = site.until(lambda goals: goals.get("long", {}).get("last-line") == "one")
    (wanting,) = goals["long"]["clients"]
    assert wanting["detached"] is True
    follower = site.client()
    request = follower.begin("attach", build=str(number))
    while follower.receive().get("event") != "started":
        pass
    (build,) = site.client().ask("detached")["builds"]
    assert (build["state"], build["targets"]) == ("running", [drv["path"]])
    site.open("go")
    answer, events = follower.finish(request)
    assert answer["result"]["outputs"] == {drv["path"]: drv["outputs"]}
    assert b"two\n" in b"".join(e["data"] for e in events if e["event"] == "log")
    assert site.client().ask("detached")["builds"] == []
    assert site.client().fail("attach", build=str(number))["reason"] == "not-building"


def test_a_result_is_kept_until_it_is_fetched(site: Any):
    """A collector spares it; an attached owner has the outcome, and nobody keeps it then."""
    drv = site.describe("kept", "echo made > $out")
    number = site.client().ask("build", targets=[drv["path"]], detach=True)["detached"]
    client = site.client()
    while client.ask("detached")["builds"][0]["state"] == "running":
        time.sleep(0.02)
    # Those who described it are still connected, and keep the derivation, not the output.
    client.finish(client.begin("collect-garbage"))
    out = Path(drv["outputs"]["out"])
    assert out.read_text() == "made\n"
    done = site.run("attach", drv["path"])
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    client.finish(client.begin("collect-garbage"))
    assert not out.exists()
    assert client.ask("end-detached", detached=number) == {"ended": False}


def test_a_failure_is_kept_too(site: Any):
    """With its kind, and the status that a waiting client would have had."""
    drv = site.describe("bad", "exit 4")
    done = site.run("build", "--detach", "--json", drv["path"])
    number = json.loads(done.stdout)["detached"]
    client = site.client()
    while client.ask("detached")["builds"][0]["state"] == "running":
        time.sleep(0.02)
    assert "permanent-failure" in site.run("detached").stdout
    attached = site.run("attach", str(number))
    assert attached.returncode == 100
    assert "failed" in attached.stderr
    assert site.run("detached").stdout == ""


def test_results_are_forgotten_after_a_time(make_site: Callable[..., Any]):
    """Nobody has to fetch them."""
    site = make_site("--keep-detached=0")
    drv = site.describe("brief", "echo > $out")
    client = site.client()
    client.ask("build", targets=[drv["path"]], detach=True)
    while client.ask("detached")["builds"]:
        time.sleep(0.02)


def test_a_running_build_is_detached_from_its_client(site: Any):
    """Interrupting `build` leaves it alone then; `attach` waits for it."""
    drv = site.describe("moved", "echo one; await go; echo > $out")
    with subprocess.Popen(
        site.run.words("build", drv["path"]), env=site.run.environment, stderr=subprocess.DEVNULL
    ) as process:
        site.until(lambda goals: goals.get("moved", {}).get("last-line") == "one")
        done = site.run("detach", drv["path"])
        assert done.returncode == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    goals = site.until(lambda goals: len(goals["moved"]["clients"]) == 1)
    assert goals["moved"]["state"] == "building"
    site.open("go")
    assert site.run("attach", done.stdout.strip()).stdout.strip() == drv["outputs"]["out"]
    assert site.run("detach", drv["path"]).returncode == 1


def test_a_build_passes_to_the_next_who_wants_it(site: Any):
    """The one who joined keeps it going when the first leaves."""
    drv = site.describe("shared", "echo one; await go; echo > $out")
    first, second = site.client(), site.client()
    first.begin("build", targets=[drv["path"]])
    pid = site.until(lambda goals: goals.get("shared", {}).get("pid"))["shared"]["pid"]
    number = second.begin("attach", build=drv["path"])
    site.until(lambda goals: len(goals["shared"]["clients"]) == 2)
    first.sock.close()
    goals = site.until(lambda goals: len(goals["shared"]["clients"]) == 1)
    assert goals["shared"]["pid"] == pid
    site.open("go")
    answer, _ = second.finish(number)
    assert answer["result"]["outputs"] == {drv["path"]: drv["outputs"]}


def test_detached_builds_are_ended(site: Any):
    """By their number; those who are attached are told."""
    drv = site.describe("endless", "echo one; await never; echo > $out")
    client, follower = site.client(), site.client()
    number = client.ask("build", targets=[drv["path"]], detach=True)["detached"]
    request = follower.begin("attach", build=str(number))
    while follower.receive().get("event") != "started":
        pass
    assert site.run("detached", "--end", str(number)).returncode == 0
    assert follower.finish(request)[0]["reason"] == "cancelled"
    site.until(lambda goals: not goals)
    assert client.fail("build", targets=["/nowhere"], detach=True)["reason"] == "invalid-path"


def restarted(site: Any, end: int) -> None:
    """Have a daemon end, and another one take its place."""
    site.daemon.process.send_signal(end)
    site.daemon.process.wait(20)
    words = site.daemon.process.args
    site.daemon.start(*words[words.index("json") + 1 :])
    site.daemon.wait_ready()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_daemon_goes_on_with_what_is_detached(site: Any, end: int):
    """Under the same number, for the same user; what has failed before stays failed."""
    bad = site.describe("bad", "exit 4")
    client = site.client()
    failed = client.ask("build", targets=[bad["path"]], detach=True)["detached"]
    while client.ask("detached")["builds"][0]["state"] == "running":
        time.sleep(0.02)
    drv = site.describe("long", "echo one; await go; echo made > $out")
    number = client.ask("build", targets=[drv["path"]], detach=True, cores=3)["detached"]
    site.until(lambda goals: goals.get("long", {}).get("last-line") == "one")
    before = client.ask("detached")["builds"][-1]
    restarted(site, end)
    site.until(lambda goals: goals.get("long", {}).get("last-line") == "one")
    assert site.client().ask("detached")["builds"] == [before]
    assert (before["detached"], before["targets"]) == (number, [drv["path"]])
    assert number > failed
    site.open("go")
    assert site.run("attach", str(number)).stdout.strip() == drv["outputs"]["out"]
    restarted(site, signal.SIGTERM)
    assert site.client().ask("detached")["builds"] == []
