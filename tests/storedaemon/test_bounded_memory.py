# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory stays bounded however much is asked, and the daemon tells how its caches do."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

from store.base32 import encode
from store.tally import CacheStatistics
from storedaemon.cli.statistics import lines
from storedaemon.wire.native import messages
from storedaemon.wire.native.frames import FrameReader
from storedaemon.wire.native.messages import encode_message
from storedaemon.wire.native.statistics import Statistics, parse_statistics, statistics_map
from tests.benchmarks.processes import forget_peak, peak, resident

from .command_line import CommandLine
from .conftest import RunningDaemon
from .guix_client import GuixClient

MIB = 1024 * 1024
CACHE = CacheStatistics("derivations", 3, 1234, 8 * MIB, "bytes", 5, 3, 0)
CACHES = {
    "derivations",
    "derivation-hashes-added",
    "derivation-hashes-substituted",
    "substitutes",
    "contents-unwritten",
    "last-uses-unwritten",
    "users",
    "profile-directories",
    "database-statements",
    "database-pages",
    "content-sources",
    "inspected-items",
    "substitute-askers",
    "substitute-fetchers",
    "build-hooks",
    "guix-operations",
    "guix-hellos",
}


def stats(daemon: RunningDaemon, *options: str) -> str:
    """Run the command, and return what it prints."""
    done = CommandLine(daemon.native_socket)("stats", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_statistics_survive_the_wire():
    """By the names of the protocol."""
    before = Statistics({"process": {"rss": 5, "uptime": 0.5}}, (CACHE, replace(CACHE, hits=9)))
    assert parse_statistics(statistics_map(before)) == before


def test_what_is_no_statistics_is_refused():
    """A daemon that says something else is not believed."""
    good = statistics_map(Statistics({}, (CACHE,)))
    with pytest.raises(TypeError, match="no number"):
        parse_statistics({**good, "slots": {"taken": "many"}})
    with pytest.raises(KeyError):
        parse_statistics({"caches": [{}]})


def test_people_get_a_table():
    """A line a part, a row a cache."""
    text = list(lines(Statistics({"slots": {"taken": 1, "capacity": 2}}, (CACHE,))))
    assert text[0] == "slots: taken 1, capacity 2"
    titles = "cache entries used limit unit hits misses evictions rule"
    assert text[2].split() == titles.split()
    assert text[3].split() == f"derivations 3 1234 {8 * MIB} bytes 5 3 0 oldest".split()


def test_the_daemon_tells_of_all_its_caches(daemon: RunningDaemon):
    """Each says how full it is, and how full it may be."""
    found = json.loads(stats(daemon, "--json"))
    caches = {cache["name"]: cache for cache in found["caches"]}
    assert caches.keys() == CACHES
    assert all(0 <= cache["used"] <= cache["limit"] for cache in caches.values())
    assert found["process"]["rss"] >= found["process"]["anonymous"] > MIB
    assert found["process"]["descriptors"] > 5
    assert found["sessions"]["connected"] == 1
    assert found["workers"]["count"] >= 1
    assert found["database"]["size"] > 0
    assert "database-statements" in stats(daemon)


IS_VALID, REFERENCES, ADD_TEXT, PATH_INFO = 1, 5, 8, 26

GUIX_QUERIES = {
    "path-hash": 4,
    "referrers": 6,
    "deriver": 18,
    "derivation-outputs": 22,
    "derivation-output-names": 28,
    "from-hash-part": 29,
    "valid-paths": 31,
    "valid-derivers": 33,
}
"""Those that the test of a million queries leaves out."""

NATIVE_QUERIES = {
    "is-valid": "path",
    "path-info": "path",
    "derivation-outputs": "path",
    "references": "path",
    "referrers": "path",
    "derivers": "path",
    "path-from-hash-part": "hash",
    "closure": "paths",
    "valid-paths": "paths",
}
"""With the parameter that each takes."""

AT_ONCE = 16

Path = Callable[[int], str]


def text(value: str) -> bytes:
    """Give a text as Guix's clients send it."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data + bytes(-len(data) % 8)


def asked(operation: int, path: str) -> bytes:
    """Give a request about one item as Guix's clients send it."""
    counted = struct.pack("<Q", 1) if operation == GUIX_QUERIES["valid-paths"] else b""
    return struct.pack("<Q", operation) + counted + text(path)


def flood(sock: socket.socket, operation: int, path: Path, times: int) -> None:
    """Ask about many items without waiting; all answers are as long as the first."""

    def send() -> None:
        for start in range(1, times + 1, 1000):
            numbers = range(start, min(start + 1000, times + 1))
            sock.sendall(b"".join(asked(operation, path(each)) for each in numbers))

    sock.sendall(asked(operation, path(0)))
    rest = times * len(sock.recv(1 << 16))
    asker = threading.Thread(target=send)
    asker.start()
    while rest:
        received = len(sock.recv(min(rest, 1 << 20)))
        assert received
        rest -= received
    asker.join()


def flood_native(
    sock: socket.socket, method: str, path: Path, times: int, ids: Iterator[int]
) -> None:
    """Ask about many items, some at a time."""
    name, frames = NATIVE_QUERIES[method], FrameReader()
    for start in range(0, times, AT_ONCE):
        for number in range(start, start + AT_ONCE):
            value = [path(number)] if name == "paths" else path(number)
            sock.sendall(encode_message(messages.Request(next(ids), method, {name: value})))
        answered = 0
        while answered < AT_ONCE:
            answered += sum(1 for _ in frames.feed(sock.recv(1 << 16)))


def growth(daemon: RunningDaemon, ask: Callable[[int], None], times: int) -> int:
    """Ask a few times, then many times; tell by how many bytes that lets the daemon grow."""
    ask(times // 10)
    before = json.loads(stats(daemon, "--json"))["process"]
    ask(times)
    after = json.loads(stats(daemon, "--json"))
    assert after["process"]["descriptors"] == before["descriptors"]
    assert all(cache["used"] <= cache["limit"] for cache in after["caches"])
    return int(after["process"]["anonymous"] - before["anonymous"])


@pytest.mark.slow
def test_distinct_queries_of_all_kinds_leave_memory_flat(daemon: RunningDaemon):
    """By clients of either kind; of items that are not there, and of what is no path."""
    numbers, ids = count(), count()

    def absent(_: int) -> str:
        return f"{daemon.store}/{encode(next(numbers).to_bytes(20, 'big'))}-absent"

    def hash_part(_: int) -> str:
        return encode(next(numbers).to_bytes(20, "big"))

    def elsewhere(_: int) -> str:
        return f"/elsewhere/{next(numbers):030}"

    def ask(times: int) -> None:
        for name, operation in GUIX_QUERIES.items():
            flood(guix.socket, operation, hash_part if "part" in name else absent, times)
        for operation in (IS_VALID, REFERENCES, PATH_INFO, *GUIX_QUERIES.values()):
            flood(guix.socket, operation, elsewhere, times // 2)
        for name, parameter in NATIVE_QUERIES.items():
            path = hash_part if parameter == "hash" else absent
            flood_native(native, name, path, times // 2, ids)
            flood_native(native, name, elsewhere, times // 2, ids)

    with GuixClient(daemon.guix_socket) as guix, daemon.connect_native() as native:
        native.sendall(encode_message(messages.ClientHello((1, 1))))
        assert native.recv(1 << 16)
        assert growth(daemon, ask, 5_000) < 4 * MIB
    assert next(numbers) > 120_000


def test_requests_of_many_clients_wait_for_memory(start_daemon: Callable[..., RunningDaemon]):
    """All are served, and the daemon never has more than some of them in memory."""
    daemon = start_daemon("--max-request-memory", "8")
    size, clients, missing = 8 * MIB, 24, f"{'0' * 32}-missing"

    def add(number: int) -> None:
        with GuixClient(daemon.guix_socket) as client:
            contents = bytes([number]) * size
            path = client.add_text("large", contents)
            assert not client.is_valid(f"{daemon.store}/{missing}")
            paths.append(path)

    paths: list[str] = []
    add(200)
    forget_peak(daemon.pid)
    before = resident(daemon.pid)
    adding = [threading.Thread(target=add, args=(number,)) for number in range(clients)]
    for each in adding:
        each.start()
    for each in adding:
        each.join()
    assert len(set(paths)) == clients + 1
    assert peak(daemon.pid) - before < 8 * size
    found = json.loads(stats(daemon, "--json"))["requests"]
    assert found["waited"] > 0
    assert (found["used"], found["waiting"], found["dropped"]) == (0, 0, 0)


@pytest.mark.slow
def test_a_client_that_stops_in_a_long_request_is_turned_away(
    start_daemon: Callable[..., RunningDaemon],
):
    """Once another one waits for the memory; it is told why."""
    daemon = start_daemon("--max-request-memory", "1")
    with GuixClient(daemon.guix_socket) as silent, GuixClient(daemon.guix_socket) as other:
        silent.socket.sendall(struct.pack("<Q", ADD_TEXT) + text("half"))
        silent.socket.sendall(struct.pack("<Q", 8 * MIB) + bytes(4 * MIB))
        while not json.loads(stats(daemon, "--json"))["requests"]["used"]:
            pass
        other.add_text("whole", bytes(4 * MIB))
        with silent.socket.makefile("rb") as answer:
            assert b"others need the memory" in answer.read()
    assert json.loads(stats(daemon, "--json"))["requests"]["dropped"] == 1


@pytest.mark.slow
def test_a_million_distinct_queries_leave_memory_flat(daemon: RunningDaemon):
    """Of items that are there and that are not."""
    numbers = count()
    with GuixClient(daemon.guix_socket) as client:
        present = [client.add_text(f"present-{each:03}", b"x") for each in range(200)]

        def absent(_: int) -> str:
            return f"{daemon.store}/{encode(next(numbers).to_bytes(20, 'big'))}-absent"

        def there(number: int) -> str:
            return present[number % 200]

        def ask(times: int) -> None:
            flood(client.socket, IS_VALID, absent, 8 * times)
            flood(client.socket, PATH_INFO, absent, times)
            flood(client.socket, REFERENCES, absent, times)
            flood(client.socket, PATH_INFO, there, times // 4)
            flood(client.socket, REFERENCES, there, times // 4)

        ask(2_000)
        before = json.loads(stats(daemon, "--json"))["process"]
        ask(100_000)
        after = json.loads(stats(daemon, "--json"))
    assert next(numbers) > 1_000_000
    assert after["process"]["anonymous"] - before["anonymous"] < 4 * MIB
    assert after["process"]["rss"] - before["rss"] < 8 * MIB
    assert after["process"]["descriptors"] == before["descriptors"]
    assert all(cache["used"] <= cache["limit"] for cache in after["caches"])
