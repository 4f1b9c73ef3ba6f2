# SPDX-License-Identifier: GPL-3.0-or-later
"""What users get of a busy daemon, and what they may do to each other's builds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storedaemon.wire import messages as m
from tests.storedaemon.guix_client import GuixClient

pytestmark = [pytest.mark.slow, pytest.mark.root]

ALICE, BOB = 4711, 4712
FILES = ("group", "passwd")


def hold(site: Any, name: str = "first") -> dict[str, Any]:
    """Have the only slot taken until the gate `go` opens."""
    drv = site.describe(name, "await go; echo > $out")
    site.client().begin("build", targets=[drv["path"]])
    site.until(lambda goals: goals.get(name, {}).get("state") == "building")
    return drv


def test_many_goals_of_one_user_do_not_delay_anothers_single_one(site: Any):
    """Nor do many sessions: the single one is among the next two that start."""
    hold(site)
    crowd = [site.describe(f"crowd-{n}", "echo > $out") for n in range(8)]
    single = site.describe("single", "echo > $out")
    watcher = site.client()
    watcher.begin("subscribe")
    for drvs in (crowd[:4], crowd[4:]):
        site.client(ALICE).begin("build", targets=[each["path"] for each in drvs])
    site.until(lambda goals: len(goals) == 9)
    lonely = site.client(BOB)
    number = lonely.begin("build", targets=[single["path"]])
    site.until(lambda goals: "single" in goals)
    site.open("go")
    assert lonely.finish(number)[0]["type"] == "reply"
    started: list[str] = []
    while single["path"] not in started:
        message = watcher.receive()
        if message.get("event") == "started":
            started.append(message["drv"])
    assert len(started) <= 2, started


def test_users_get_what_their_weights_say(make_site: Callable[..., Any]):
    """Of one slot, three turns in four."""
    site = make_site("--max-jobs=1", f"--shares={ALICE}=3")
    hold(site)
    drvs = {
        uid: [site.describe(f"of-{uid}-{n}", "echo > $out")["path"] for n in range(8)]
        for uid in (ALICE, BOB)
    }
    watcher = site.client()
    watcher.begin("subscribe")
    for uid, paths in drvs.items():
        site.client(uid).begin("build", targets=paths, **{"keep-going": True})
    site.until(lambda goals: len(goals) == 17)
    site.open("go")
    started: list[str] = []
    while len(started) < 8:
        message = watcher.receive()
        if message.get("event") == "started":
            started.append(message["drv"])
    assert len(set(started) & set(drvs[ALICE])) == 6, started


def test_others_may_only_put_off_what_is_theirs_alone(site: Any):
    """Nobody comes before others by saying so."""
    first = hold(site)
    drv = site.describe("mine", "echo > $out")
    alice = site.client(ALICE)
    alice.begin("build", targets=[drv["path"]])
    site.until(lambda goals: "mine" in goals)
    assert alice.ask("set-priority", path=drv["path"], priority=-3) == {"changed": True}
    for client, path, priority in [
        (alice, drv["path"], -2),
        (alice, first["path"], -9),
        (site.client(BOB), drv["path"], -9),
    ]:
        failure = client.fail("set-priority", path=path, priority=priority)
        assert failure["reason"] == "not-privileged"
    assert site.client().ask("set-priority", path=drv["path"], priority=7) == {"changed": True}
    assert site.goals()["mine"]["priority"] == 7
    site.open("go")


def test_users_watch_what_is_theirs(site: Any):
    """Those who are trusted watch all."""
    bob = site.client(BOB)
    bob.begin("subscribe")
    assert bob.ask("ping") == {}
    hers, his = (site.describe(name, "echo > $out") for name in ("hers", "his"))
    for uid, drv in ((ALICE, hers), (BOB, his)):
        client = site.client(uid)
        client.finish(client.begin("build", targets=[drv["path"]]))
    seen = [bob.receive() for _ in range(4)]
    assert {each["drv"] for each in seen} == {his["path"]}


def test_detached_builds_are_their_owners(site: Any):
    """Others neither see, nor fetch, nor end them; what others want is not theirs to detach."""
    first = hold(site)
    drv = site.describe("hers", "echo > $out")
    number = site.client(ALICE).ask("build", targets=[drv["path"]], detach=True)["detached"]
    bob = site.client(BOB)
    assert bob.ask("detached") == {"builds": []}
    assert bob.fail("attach", build=str(number))["reason"] == "not-building"
    assert bob.fail("end-detached", detached=number)["reason"] == "not-privileged"
    assert bob.fail("detach", path=first["path"])["reason"] == "not-privileged"
    assert [b["uid"] for b in site.client().ask("detached")["builds"]] == [ALICE]
    assert site.client(ALICE).ask("end-detached", detached=number) == {"ended": True}
    site.open("go")


def test_who_waits_for_a_build_user_is_told(make_site: Callable[..., Any], tmp_path: Path):
    """With fewer users than slots, it is the users that are waited for."""
    (tmp_path / "group").write_text("root:x:0:\nbuilders:x:64300:one\n")
    (tmp_path / "passwd").write_text("root:x:0:0::/:/bin/sh\none:x:64301:64300::/:/x\n")
    mounts = " && ".join(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in FILES)
    site = make_site(
        *("--build-users-group=builders", "--max-jobs=2"),
        wrapper=("unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"),
    )
    hold(site)
    second = site.describe("second", "echo > $out")
    client = site.client()
    number = client.begin("build", targets=[second["path"]])
    goals = site.until(lambda goals: goals.get("second", {}).get("waits-for"))
    assert goals["second"]["state"] == "waiting-for-user"
    assert goals["second"]["waits-for"].startswith("build user: 1 build is running")
    site.open("go")
    answer, events = client.finish(number)
    assert answer["type"] == "reply"
    assert [e["what"] for e in events if e.get("event") == "waiting"] == ["build user"]


def test_guix_clients_are_told_what_they_wait_for(site: Any):
    """In lines that Guix shows: who has the slot, and who has the same built already."""
    first = hold(site)
    second = site.describe("second", "echo > $out")
    with GuixClient(site.daemon.guix_socket) as client:
        client.send_only(m.BuildPaths((second["path"],)))
        text = _line(client, b"waiting for locks or build slots: ")
        assert b"needs build slot: 1 build is running: first for " in text
    with GuixClient(site.daemon.guix_socket) as client:
        client.send_only(m.BuildPaths((first["path"],)))
        assert b"is already being built for user root (pid " in _line(client, b"`")
        site.open("go")
        client.wait()


def _line(client: GuixClient, beginning: bytes) -> bytes:
    """Read up to a line that begins so."""
    while True:
        text = getattr(client.next_event(), "data", b"")
        if text.startswith(beginning):
            return bytes(text)
