# SPDX-License-Identifier: GPL-3.0-or-later
"""Roots, verification and deduplication for native clients."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_root_is_listed_once_it_is_added(connect: Callable[..., Any], daemon: Any):
    """By the link's name; bytes that are no text are replaced."""
    client = connect()
    item = client.ask("add-text", name="t", text="x")["path"]
    link = daemon.base / "link"
    link.symlink_to(item)
    client.ask("add-root", link=str(link))
    os.symlink(item, os.fsencode(f"{daemon.state}/gcroots/") + b"\xff")
    assert client.ask("roots") == {
        "roots": sorted(
            [
                {"link": str(link), "path": item},
                {"link": f"{daemon.state}/gcroots/\N{REPLACEMENT CHARACTER}", "path": item},
            ],
            key=lambda root: root["link"],
        )
    }


def test_many_roots_come_in_parts(connect: Callable[..., Any], daemon: Any):
    """As lists of paths do, and what is no root is remarked on."""
    client = connect()
    item = client.ask("add-text", name="t", text="x")["path"]
    for number in range(600):
        os.symlink(item, f"{daemon.state}/gcroots/{number:03}{'x' * 100}")
    os.symlink(f"{daemon.store}/nothing", f"{daemon.state}/gcroots/bad")
    answer, before = client.finish(client.begin("roots"))
    remarks = [event["text"] for event in before if event["event"] == "message"]
    parts = [event["roots"] for event in before if event["event"] == "roots"]
    assert remarks == [
        f"skipping invalid root from `{daemon.state}/gcroots/bad' to `{daemon.store}/nothing'"
    ]
    assert len(parts) > 1
    roots = [root for part in [*parts, answer["result"]["roots"]] for root in part]
    assert [Path(root["link"]).name[:3] for root in roots] == [f"{n:03}" for n in range(600)]


def test_a_damaged_store_is_found_out(connect: Callable[..., Any]):
    """The result says whether anything is wrong, events say what."""
    client = connect()
    item = client.ask("add-text", name="t", text="x")["path"]
    assert client.ask("verify") == {"errors": False}
    os.chmod(item, 0o644)
    Path(item).write_text("y")
    assert client.ask("verify") == {"errors": False}
    answer, before = client.finish(client.begin("verify", contents=True))
    assert answer["result"] == {"errors": True}
    assert before[-3]["level"] == "talkative"
    assert before[-2]["text"].startswith(f"path `{item}' was modified! expected hash `")
    assert before[-1]["damage"] == "modified"


def test_equal_files_are_counted(connect: Callable[..., Any], daemon: Any):
    """What was shared when it was added needs no more."""
    client = connect()
    items = [client.add_script(name, "x" * 10_000) for name in ("a", "b")]
    assert client.ask("optimise") == {"files": 0, "size": 0}
    Path(items[1]).rename(f"{daemon.base}/moved")
    Path(items[1]).write_bytes(Path(f"{daemon.base}/moved").read_bytes())
    Path(items[1]).chmod(0o555)
    assert client.ask("optimise") == {"files": 1, "size": 10_000}


def test_a_repair_says_what_it_could_not_mend(connect: Callable[..., Any]):
    """A text has no derivation; what is not registered is refused before anything is done."""
    client = connect()
    item = client.ask("add-text", name="t", text="x")["path"]
    assert client.ask("repair", paths=[item]) == {"errors": False}
    os.chmod(item, 0o644)
    Path(item).write_text("y")
    answer, before = client.finish(client.begin("repair", paths=[item, item]))
    assert answer["result"] == {"errors": True}
    damage = [event for event in before if event["event"] == "damage"]
    assert [(d["path"], d["damage"], d["repaired"]) for d in damage] == [(item, "modified", False)]
    assert client.fail("repair", paths=[item, f"{item}x"])["reason"] == "not-valid"
    assert client.fail("repair", paths=["/x"])["reason"] == "invalid-path"


def test_failures_are_cleared_by_name_or_altogether(connect: Callable[..., Any], daemon: Any):
    """Nothing is remembered here; names are checked all the same."""
    client = connect()
    assert client.ask("failed-paths") == {"paths": []}
    assert client.ask("clear-failed-paths") == {}
    assert client.ask("clear-failed-paths", paths=[f"{daemon.store}/{'1' * 32}-x"]) == {}
    assert client.fail("clear-failed-paths", paths=["/x"])["reason"] == "invalid-path"
