# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage collection for native clients."""

import os
import time
from collections.abc import Callable
from typing import Any

import apsw
import pytest

Connect = Callable[..., Any]


@pytest.fixture
def add(connect: Connect) -> Callable[..., list[str]]:
    """Add items that no client keeps by then."""

    def add(*names: str, references: list[str] | None = None) -> list[str]:
        sessions = connect().ask("status")["sessions"]
        client = connect()
        more = {"references": references} if references else {}
        paths = [client.ask("add-text", name=name, text=name, **more)["path"] for name in names]
        client.sock.close()
        other = connect()
        # What a session kept it gives up some moments after its end.
        while other.ask("status")["sessions"] > sessions + 1:
            time.sleep(0.01)
        return sorted(paths)

    return add


def collect(client: Any, **wishes: Any) -> tuple[dict[str, Any], list[str]]:
    """Collect; give the result, and what was deleted, in order."""
    answer, before = client.finish(client.begin("collect-garbage", **wishes))
    assert answer["type"] == "reply", answer
    deleted = [path for event in before for path in event.get("paths", [])]
    return answer["result"], deleted


def test_all_garbage_goes(connect: Connect, add: Callable[..., list[str]]):
    """The events name it, and the stages on the way."""
    items = add("a", "b")
    client = connect()
    answer, before = client.finish(client.begin("collect-garbage"))
    assert answer["type"] == "reply", answer
    assert answer["result"]["deleted"] == 2
    assert answer["result"]["freed"] == 2
    stages = [event["stage"] for event in before if event["event"] == "stage"]
    assert stages == ["roots", "deleting", "trash", "links"]
    [deleted] = [event for event in before if event["event"] == "deleted"]
    assert sorted(deleted["paths"]) == items
    assert not any(map(os.path.exists, items))


def test_a_dry_run_deletes_nothing(connect: Connect, add: Callable[..., list[str]]):
    """But names what would go."""
    items = add("a", "b")
    client = connect()
    result, deleted = collect(client, **{"dry-run": True})
    assert result["deleted"] == 2
    assert sorted(deleted) == items == client.ask("dead")["paths"]
    assert client.ask("valid-paths", paths=items) == {"paths": items}


def test_what_is_used_by_somebody_is_young(
    connect: Connect, add: Callable[..., list[str]], daemon: Any
):
    """And so is what it refers to, however long ago that was registered."""
    [low] = add("low")
    [high] = add("high", references=[low])
    [old] = add("old")
    database = apsw.Connection(f"{daemon.state}/db/db.sqlite")
    database.set_busy_timeout(10_000)
    year_ago = int(time.time()) - 31_000_000
    database.execute("update ValidPaths set registrationTime = ?", (year_ago,))
    database.close()
    side = apsw.Connection(f"{daemon.state}/db/storedaemon.sqlite")
    client = connect()
    # What was recorded is written before it is asked for.
    collect(client, **{"dry-run": True})
    side.set_busy_timeout(10_000)
    side.execute("update LastUses set time = ? where path in (?, ?)", (year_ago, low, old))
    side.close()
    _, deleted = collect(client, **{"unused-for": 86_400})
    assert deleted == [old]
    _, deleted = collect(client)
    assert deleted == [high, low]


def test_a_limit_spares_what_was_used_last(
    connect: Connect, add: Callable[..., list[str]], daemon: Any
):
    """The oldest goes, and with it the collection is over."""
    items = add("a", "b", "c")
    client = connect()
    collect(client, **{"dry-run": True})
    side = apsw.Connection(f"{daemon.state}/db/storedaemon.sqlite")
    side.set_busy_timeout(10_000)
    database = apsw.Connection(f"{daemon.state}/db/db.sqlite")
    database.set_busy_timeout(10_000)
    for number, item in enumerate(items):
        side.execute("update LastUses set time = ? where path = ?", (1000 - number, item))
        database.execute(
            "update ValidPaths set registrationTime = ? where path = ?", (1000 - number, item)
        )
    side.close()
    database.close()
    result, deleted = collect(client, limit=1)
    assert deleted == [items[2], items[1]]
    assert result["freed"] == 2


def test_enough_free_space_is_enough(connect: Connect, add: Callable[..., list[str]]):
    """Nothing goes while there is more; all goes where there can never be."""
    items = add("a", "b")
    client = connect()
    assert collect(client, free=1)[1] == []
    assert sorted(collect(client, free=2**52)[1]) == items


def test_an_item_that_is_alive_is_not_deleted(connect: Connect):
    """The reason is a word."""
    client = connect()
    item = client.ask("add-text", name="t", text="x")["path"]
    error = client.fail("collect-garbage", paths=[item])
    assert error["reason"] == "alive"
    assert error["message"] == f"cannot delete path `{item}' since it is still alive"


def test_why_an_item_is_alive(connect: Connect, add: Callable[..., list[str]], daemon: Any):
    """Each root is a reason, with the way from it."""
    [low] = add("low")
    [high] = add("high", references=[low])
    client = connect()
    assert client.ask("why-alive", path=low) == {"reason": None}
    os.symlink(high, f"{daemon.state}/gcroots/link")
    link = f"{daemon.state}/gcroots/link"
    by_link = {"kind": "link", "link": link, "chain": [high, low], "length": 2}
    assert client.ask("why-alive", path=low) == {"reason": by_link}
    client.ask("add-temporary-root", path=low)
    answer, before = client.finish(client.begin("why-alive", path=low))
    found = [answer["result"]["reason"], *({**e} for e in before if e["event"] == "reason")]
    assert {each["kind"] for each in found} == {"link", "session"}
    assert low in client.ask("live")["paths"]
    assert client.fail("why-alive", path=f"{daemon.store}/{'0' * 32}-x")["reason"] == "not-valid"
