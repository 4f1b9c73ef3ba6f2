# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory stays bounded however much is asked, and the daemon tells how its caches do."""

import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest

from store.base32 import encode
from store.tally import CacheStatistics
from storedaemon.cli.statistics import lines
from storedaemon.wire.native.statistics import Statistics, parse_statistics, statistics_map

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


IS_VALID, REFERENCES, PATH_INFO = 1, 5, 26

Path = Callable[[int], str]


def asked(operation: int, path: str) -> bytes:
    """Give a request about one item as Guix's clients send it."""
    text = path.encode()
    return struct.pack("<QQ", operation, len(text)) + text + bytes(-len(text) % 8)


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
