# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that come and go, and clients that stay and do nothing."""

from collections.abc import Iterator
from contextlib import ExitStack

from tests.benchmarks import driver, floors, processes
from tests.benchmarks.driver import Driver
from tests.benchmarks.figures import Against, Figure, Goal, Series, Unit
from tests.benchmarks.lab import Lab, Side
from tests.benchmarks.peer_nix import NixPeer
from tests.benchmarks.rounds import Contestant, timed
from tests.benchmarks.subject import Subject

IDLE_CLIENTS = 200


def connect(lab: Lab) -> Iterator[Figure]:
    """Connect, shake hands, hang up."""
    count = lab.scaled(200, 50)

    def contestant(side: Side) -> Contestant:
        def once() -> None:
            side.driver.line().socket.close()

        return lambda: timed(once, count)

    with floors.accepting(lab.scratch / "accepting", count) as floor:
        series = lab.contest(contestant, floor)
    goals = (Goal(0.5e-3, Against.NOTHING),)
    floor_name = "connect, two round trips, hang up"
    yield Figure("connect and handshake", floor_name, Unit.SECONDS, series, goals)


def idle_clients(lab: Lab) -> Iterator[Figure]:
    """Find out what clients cost that have asked something once, and then stay."""
    count = IDLE_CLIENTS
    with Subject() as subject:
        ours = _cost_of_idling(subject.driver(), count)
    peer = []
    if lab.peer is not None:
        with NixPeer(1) as other:
            peer.append(_cost_of_idling(other.driver(), count))
    series = Series([ours], peer=peer)
    goals = (Goal(100 * 1024, Against.NOTHING),)
    yield Figure(f"{count} idle clients, memory of each", "", Unit.BYTES, series, goals)


def _cost_of_idling(client: Driver, count: int) -> float:
    path = client.add_text("text", b"text")
    request = driver.path_request(driver.IS_VALID_PATH, path)
    with ExitStack() as stack:
        # Whatever is imported or allocated for the first client is not for the others.
        stack.enter_context(client.line()).ask(request, 16)
        before = processes.proportional(client.pid)
        for _ in range(count):
            stack.enter_context(client.line()).ask(request, 16)
        return (processes.proportional(client.pid) - before) / count
