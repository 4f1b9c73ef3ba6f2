# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage collection as Guix clients see it: the words and figures of the recorded conversations.

A session keeps what it adds, so garbage is added by one that has gone by then.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from store.links import MINIMUM_SIZE
from storedaemon.wire import messages as m
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError

NO_LIMIT = 2**64 - 1
TRANSCRIPTS = Path(__file__).parent.parent / "data" / "transcripts"
ROOTS = b"finding garbage collector roots...\n"
LISTING = b"determining live/dead paths...\n"


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[GuixClient]:
    """A connected client."""
    with GuixClient(daemon.guix_socket) as client:
        yield client


def collect(
    client: GuixClient,
    action: m.GarbageAction = m.GarbageAction.DELETE_DEAD,
    paths: Sequence[str] = (),
    limit: int = NO_LIMIT,
    *,
    ignore_liveness: bool = False,
) -> m.GarbageReply:
    """Ask for a collection."""
    request = m.CollectGarbage(action, tuple(paths), ignore_liveness, limit)
    reply = client.call(request)
    assert isinstance(reply, m.GarbageReply)
    return reply


def add_garbage(daemon: RunningDaemon, *names: str, size: int = 8) -> list[str]:
    """Add files that nobody keeps; give their paths, sorted."""
    with GuixClient(daemon.guix_socket) as client:
        contents = {name: name.encode().ljust(size, b"\n")[:size] for name in names}
        return sorted(client.add_text(name, content) for name, content in contents.items())


@pytest.fixture
def other(daemon: RunningDaemon) -> Iterator[GuixClient]:
    """Another client, whose temporary roots count."""
    with GuixClient(daemon.guix_socket) as other:
        yield other


def recorded(file: str, request: int) -> list[bytes]:
    """Give the texts that the reference showed for a request, counted from 0."""
    lines = [json.loads(line) for line in (TRANSCRIPTS / file).read_text().splitlines()]
    # Before them come the two answers of the handshake.
    answers = [bytes.fromhex(line["hex"]) for line in lines if line["from"] == "daemon"][2:]
    return re.findall(rb"gmlo\0{4}[\s\S]{8}([^\0]*\n)", answers[request])


def placed(texts: list[bytes], store: str) -> list[bytes]:
    """Give recorded texts as they are for another store."""
    return [text.replace(b"/gnu/store", store.encode()) for text in texts]


def savings(daemon: RunningDaemon) -> bytes:
    """Give the line on deduplication where nothing is shared: what its directory costs."""
    cost = os.stat(f"{daemon.store}/.links").st_size
    return f"note: currently hard linking saves {-cost:4}  bytes\n".encode()


# The recorded conversations


def test_the_recorded_deletion_of_one_item(client: GuixClient, daemon: RunningDaemon):
    """The bytes freed are the length of its file."""
    [item] = add_garbage(daemon, "garbage")
    reply = collect(client, m.GarbageAction.DELETE_SPECIFIC, [item])
    assert reply == m.GarbageReply((item,), 8)
    texts = placed(recorded("roots-gc-12.jsonl", 6), daemon.store)
    texts[1] = re.sub(rb"'.*'", b"'" + item.encode() + b"'", texts[1])
    assert client.output == [*texts[:-1], savings(daemon)]
    assert not os.path.exists(item)


def test_the_recorded_refusal_to_delete_what_is_alive(client: GuixClient, other: GuixClient):
    """Another client's session keeps the item."""
    item = other.add_text("hello.txt", b"hello\n")
    with pytest.raises(RequestFailedError) as caught:
        collect(client, m.GarbageAction.DELETE_SPECIFIC, [item])
    assert caught.value.message == f"cannot delete path `{item}' since it is still alive"
    assert client.output == [ROOTS]
    assert client.is_valid(item)


def test_a_session_deletes_what_it_added_itself(client: GuixClient):
    """Its own temporary roots do not count, and what it adds again is kept from others."""
    item = client.add_text("again", b"again")
    assert item in collect(client, m.GarbageAction.RETURN_DEAD).paths
    assert collect(client, m.GarbageAction.DELETE_SPECIFIC, [item]).paths == (item,)
    assert not client.is_valid(item)
    assert client.add_text("again", b"again") == item
    assert client.is_valid(item)


def test_the_recorded_lists_of_the_dead_and_the_living(
    client: GuixClient, other: GuixClient, daemon: RunningDaemon
):
    """What lies in the store without being registered is dead as well."""
    live = other.add_text("live", b"live")
    dead = add_garbage(daemon, "a", "b")
    stray = f"{daemon.store}/{'0' * 32}-stray.lock"
    Path(stray).touch()
    assert collect(client, m.GarbageAction.RETURN_DEAD).paths == tuple(sorted([*dead, stray]))
    assert client.output == recorded("gc2-13.jsonl", 0) == [ROOTS, LISTING]
    living = collect(client, m.GarbageAction.RETURN_LIVE)
    assert live in living.paths
    assert not set(dead) & set(living.paths)
    assert living.bytes_freed == 0


def test_the_recorded_collection_up_to_a_limit(client: GuixClient, daemon: RunningDaemon):
    """What is not registered goes first, and the item that passes the limit is the last."""
    stray = f"{daemon.store}/{'0' * 32}-stray.lock"
    Path(stray).touch()
    items = add_garbage(daemon, "a", "b", "c", size=8)
    reply = collect(client, limit=10)
    assert stray in reply.paths
    assert len(reply.paths) == 3
    assert reply.bytes_freed == 16
    assert sum(map(os.path.exists, items)) == 1
    expected = placed(recorded("gc2-13.jsonl", 1), daemon.store)
    deleting = [b"[%d%%] deleting '" % percent for percent in (0, 0, 80)]
    assert [text.rpartition(b"/")[0].partition(b"/")[0] for text in client.output[2:5]] == deleting
    assert [*client.output[:2], *client.output[5:]] == [
        *expected[:2],
        *expected[-4:-1],
        savings(daemon),
    ]


# Beyond them


def test_everything_dead_goes_and_nothing_else(client: GuixClient, daemon: RunningDaemon):
    """Roots of all kinds keep items, and what these refer to."""
    base = client.add_text("base", b"base")
    top = client.add_text("top", b"top", [base])
    dead = add_garbage(daemon, "a", "b")
    (daemon.base / "link").symlink_to(top)
    client.call(m.AddIndirectRoot(f"{daemon.base}/link"))
    client.socket.close()
    with GuixClient(daemon.guix_socket) as other:
        assert collect(other).paths == tuple(dead)
        assert other.is_valid(base)
        assert other.is_valid(top)
        (daemon.base / "link").unlink()
        assert collect(other).paths == tuple(sorted([base, top]))
        assert not [n for n in os.listdir(daemon.store) if not n.startswith(".")]


def test_a_limit_of_nothing_deletes_nothing(client: GuixClient, daemon: RunningDaemon):
    """Only the trash is emptied."""
    add_garbage(daemon, "a")
    assert collect(client, limit=0) == m.GarbageReply((), 0)
    assert client.output[:2] == [ROOTS, f"deleting `{daemon.store}/trash'\n".encode()]


def test_ignoring_liveness_is_refused(client: GuixClient):
    """Whoever asks, and whatever for."""
    with pytest.raises(RequestFailedError, match="you are not allowed to ignore liveness"):
        collect(client, ignore_liveness=True)


def test_deleting_an_item_deletes_what_refers_to_it(client: GuixClient, daemon: RunningDaemon):
    """But not what it refers to."""
    with GuixClient(daemon.guix_socket) as other:
        low = other.add_text("low", b"low")
        middle = other.add_text("middle", b"middle", [low])
        high = other.add_text("high", b"high", [middle])
    reply = collect(client, m.GarbageAction.DELETE_SPECIFIC, [middle])
    assert reply.paths == tuple(sorted([middle, high]))
    assert client.is_valid(low)


def test_an_absent_item_is_deleted_without_a_word(client: GuixClient, daemon: RunningDaemon):
    """As with the reference, which finds nothing there."""
    absent = f"{daemon.store}/{'0' * 32}-absent"
    assert collect(client, m.GarbageAction.DELETE_SPECIFIC, [absent]) == m.GarbageReply((), 0)


def test_shared_files_are_freed_once(client: GuixClient, daemon: RunningDaemon):
    """By the sweep of the links, after which nothing is shared."""
    size = 2 * MINIMUM_SIZE
    items = add_garbage(daemon, "one", size=size)
    assert len(os.listdir(f"{daemon.store}/.links")) == 1
    assert collect(client) == m.GarbageReply(tuple(items), size)
    assert os.listdir(f"{daemon.store}/.links") == []


def test_what_is_shared_still_is_counted_as_saved(
    client: GuixClient, other: GuixClient, daemon: RunningDaemon
):
    """By the length of all copies but one."""
    content = b"x" * MINIMUM_SIZE
    for name in ("a", "b", "c"):
        other.add_text(name, content)
    collect(client)
    cost = os.stat(f"{daemon.store}/.links").st_size
    kib = (2 * MINIMUM_SIZE - cost) / 1024
    assert client.output[-1] == f"note: currently hard linking saves {kib:7.2f} KiB\n".encode()


def test_items_come_back_as_they_were(client: GuixClient, daemon: RunningDaemon):
    """Deleted, they are like any that never was."""
    [item] = add_garbage(daemon, "a")
    collect(client)
    assert not client.is_valid(item)
    assert add_garbage(daemon, "a") == [item]
    assert Path(item).read_bytes() == b"a".ljust(8, b"\n")
