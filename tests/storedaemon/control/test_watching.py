# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits says for what; logs are followed; events are told: with a real daemon."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_who_waits_for_a_slot_is_told_which_build_has_it(site: Any):
    """In `ps`, in the event, and for whoever joins, since when."""
    first = site.describe("first", "await go; echo > $out")
    second = site.describe("second", "echo > $out")
    one, two = site.client(), site.client()
    number = one.begin("build", targets=[first["path"]])
    site.until(lambda goals: goals["first"]["state"] == "building")
    other = two.begin("build", targets=[second["path"]])
    goal = site.until(lambda goals: "second" in goals)["second"]
    assert goal["state"] == "waiting-for-slot"
    assert re.match(r"build slot: 1 build is running: first for \w+ since ", goal["waits-for"])
    (holder,) = goal["holders"]
    assert (holder["goal"], holder["since"] > 0) == (first["path"], True)
    third = site.client()
    joined = third.begin("build", targets=[first["path"]])
    site.until(lambda goals: len(goals["first"]["clients"]) == 2)
    site.open("go")
    _, events = two.finish(other)
    waiting = next(each for each in events if each["event"] == "waiting")
    assert waiting["holders"] == goal["holders"]
    _, events = third.finish(joined)
    shared = next(each for each in events if each["event"] == "shared")
    assert shared["by"]["pid"] == os.getpid()
    assert one.finish(number)[0]["type"] == "reply"


def test_who_waits_for_another_processs_lock_is_told_which(site: Any):
    """A POSIX lock, as the C++ daemon has, and one of a description, as ours."""
    drv = site.describe("locked", "echo > $out")
    path = drv["outputs"]["out"] + ".lock"
    for kind in ("lockf", "ofd"):
        program = (
            "import fcntl,os,struct,sys\n"
            f"fd=os.open({path!r},os.O_RDWR|os.O_CREAT)\n"
            "flock=struct.pack('hhqqi0q',fcntl.F_WRLCK,0,0,0,0)\n"
            f"fcntl.fcntl(fd,fcntl.{'F_SETLKW' if kind == 'lockf' else 'F_OFD_SETLKW'},flock)\n"
            "print('held',flush=True);sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            client = site.client()
            client.begin("build", targets=[drv["path"]])
            goals = site.until(lambda goals: goals["locked"]["holders"])
            (holder,) = goals["locked"]["holders"]
            assert goals["locked"]["state"] == "waiting-for-lock"
            assert holder["pid"] == process.pid
            assert holder["command"].startswith("python")
            client.sock.close()
            assert process.stdin is not None
            process.stdin.close()
        site.until(lambda goals: not goals)


def test_waiting_is_explained_in_a_plain_line(site: Any):
    """After some seconds without anything going on, as Guix's clients know it."""
    first = site.describe("first", "await go; echo > $out")
    second = site.describe("second", "echo > $out")
    one, two = site.client(), site.client()
    one.begin("build", targets=[first["path"]])
    site.until(lambda goals: goals["first"]["state"] == "building")
    two.begin("build", targets=[second["path"]])
    while (message := two.receive()) and message.get("event") != "message":
        pass
    text = message["text"]
    assert text.startswith(f"waiting for locks or build slots: `{second['path']}' needs build slot")
    assert "first for" in text
    site.open("go")


def test_a_log_is_followed_until_the_build_ends(site: Any):
    """What is in the file, then what comes: all of it, once."""
    drv = site.describe(
        "chatty",
        "seq 1 20000; await one; seq 20001 40000; await two; seq 40001 50000; exit 3",
    )
    client, reader = site.client(), site.client()
    number = client.begin("build", targets=[drv["path"]], attempts=1)
    site.until(lambda goals: goals["chatty"]["last-line"] == "20000")
    follow = reader.begin("log", path=drv["path"], follow=True)
    size = len("".join(f"{n}\n" for n in range(1, 20001)))
    data = b""
    while len(data) < size:
        data += reader.receive()["data"]
    site.open("one")
    while not data.endswith(b"\n40000\n"):
        data += reader.receive()["data"]
    site.open("two")
    answer, chunks = reader.finish(follow)
    data += b"".join(chunk["data"] for chunk in chunks)
    assert data.decode().split() == [str(n) for n in range(1, 50001)]
    assert answer["result"]["size"] == len(data)
    assert answer["result"]["outcome"] == "permanent-failure"
    assert "exit code 3" in answer["result"]["message"]
    assert client.finish(number)[0]["reason"] == "permanent-failure"
    answer, chunks = reader.finish(reader.begin("log", path=drv["path"], follow=True))
    assert b"".join(chunk["data"] for chunk in chunks) == data
    assert "outcome" not in answer["result"]


def test_following_begins_before_the_build(site: Any):
    """Who waits with the build is told for what, and then gets all of the log."""
    first = site.describe("first", "await go; echo > $out")
    second = site.describe("second", "echo hello; echo > $out")
    one, two, reader = site.client(), site.client(), site.client()
    one.begin("build", targets=[first["path"]])
    site.until(lambda goals: goals["first"]["state"] == "building")
    two.begin("build", targets=[second["path"]])
    site.until(lambda goals: "second" in goals)
    follow = reader.begin("log", path=second["path"], follow=True)
    waiting = reader.receive()
    assert (waiting["event"], waiting["what"]) == ("waiting", "build slot")
    site.open("go")
    answer, messages = reader.finish(follow)
    assert b"".join(m["data"] for m in messages if m["type"] == "chunk") == b"hello\n"
    assert answer["result"]["outcome"] == "done"


def test_the_command_follows_in_another_terminal(site: Any):
    """It prints what comes when it comes, and says how the build ended."""
    drv = site.describe("talker", "echo one; await go; echo two; echo > $out")
    client = site.client()
    client.begin("build", targets=[drv["path"]])
    site.until(lambda goals: goals["talker"]["last-line"] == "one")
    with subprocess.Popen(
        site.run.words("log", "-f", drv["path"]),
        env=site.run.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        site.open("go")
        out, error = process.communicate(timeout=20)
    assert (out, error) == (b"two\n", b"the build succeeded\n")
    assert process.returncode == 0


def test_logs_of_attempts_are_read(make_site: Callable[..., Any]):
    """Each attempt has its own; `follow` gives one after the other."""
    site = make_site("--max-jobs=2")
    beside = site.describe("beside", "await end; echo > $out")
    gate = "mkdir $out 2>/dev/null; "
    drv = site.describe(
        "flaky",
        f"{gate}echo trying; await begun; if [ -e {site.gates}/again ]; then exit 0; fi;"
        f" await failing; exit 1",
    )
    one, two, reader = site.client(), site.client(), site.client()
    one.begin("build", targets=[beside["path"]])
    site.until(lambda goals: goals["beside"]["state"] == "building")
    number = two.begin("build", targets=[drv["path"]], attempts=2)
    site.until(lambda goals: goals["flaky"]["last-line"] == "trying")
    follow = reader.begin("log", path=drv["path"], follow=True)
    site.open("begun")
    site.open("failing")
    site.until(lambda goals: goals["flaky"]["attempt"] == 2)
    site.open("again")
    site.open("end")
    assert two.finish(number)[0]["type"] == "reply"
    answer, messages = reader.finish(follow)
    assert answer["result"]["outcome"] == "done"
    data = b"".join(m["data"] for m in messages if m["type"] == "chunk")
    assert data == b"trying\ntrying\n"
    for attempt in (1, 2):
        answer, messages = reader.finish(reader.begin("log", path=drv["path"], attempt=attempt))
        assert b"".join(m["data"] for m in messages) == b"trying\n"
    assert reader.fail("log", path=drv["path"], attempt=3)["reason"] == "no-log"


def test_events_of_all_builds_are_told(site: Any):
    """The course of builds, with those who want them; JSON for programs."""
    drv = site.describe("seen", "echo output; echo > $out")
    watcher = site.client()
    watcher.begin("subscribe")
    assert watcher.ask("ping") == {}
    client = site.client()
    client.finish(client.begin("build", targets=[drv["path"]]))
    seen = []
    while not seen or seen[-1]["event"] != "ended":
        seen.append(watcher.receive())
    assert [each["event"] for each in seen] == ["begun", "started", "succeeded", "ended"]
    assert all(each["drv"] == drv["path"] for each in seen)
    assert all(each["clients"][0]["pid"] == os.getpid() for each in seen)
    assert seen[-1]["outcome"] == "done"


def test_the_command_prints_events(site: Any):
    """Lines for people, objects for programs; interrupting ends it."""
    drv = site.describe("seen", "await go; echo > $out")
    client = site.client()
    processes = [
        subprocess.Popen(
            site.run.words("events", *options), env=site.run.environment, stdout=subprocess.PIPE
        )
        for options in ([], ["--json"])
    ]
    status = site.client()
    while status.ask("status")["watchers"] < 2:
        pass
    client.begin("build", targets=[drv["path"]])
    site.open("go")
    plain, programs = (process.stdout for process in processes)
    assert plain is not None
    assert programs is not None
    assert re.match(rb"[\d:]+ begun seen normal for \w+\n", plain.readline())
    assert json.loads(programs.readline())["event"] == "begun"
    assert json.loads(programs.readline())["event"] == "started"
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stdout is not None
        process.stdout.close()


def test_priorities_are_set_by_those_who_may(site: Any):
    """The queue follows; what nobody builds has none."""
    first = site.describe("first", "await go; echo > $out")
    queued = [site.describe(name, "echo > $out") for name in ("a", "b")]
    client = site.client()
    client.begin("build", targets=[first["path"]])
    site.until(lambda goals: goals["first"]["state"] == "building")
    number = client.begin("build", targets=[each["path"] for each in queued])
    goals = site.until(lambda goals: {"a", "b"} <= set(goals))
    last = queued[0] if goals["a"]["age"] >= goals["b"]["age"] else queued[1]
    assert site.run("priority", last["path"], "-5").returncode == 0
    assert sorted(goal["priority"] for goal in site.goals().values()) == [-5, 0, 0]
    assert site.run("priority", last["path"], "x").returncode == 2
    site.open("go")
    _, events = client.finish(number)
    started = [each["drv"] for each in events if each.get("event") == "started"]
    assert started[-1] == last["path"]
    assert site.run("priority", last["path"], "1").returncode == 1
    assert site.client().fail("set-priority", path=last["path"], priority=1001)["reason"] == (
        "invalid-params"
    )
