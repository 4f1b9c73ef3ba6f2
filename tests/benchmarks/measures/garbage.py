# SPDX-License-Identifier: GPL-3.0-or-later
"""Collecting garbage, against deleting as many files and directories by plain system calls."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from tests.benchmarks.bystander import Bystander
from tests.benchmarks.driver import Driver
from tests.benchmarks.figures import Against, Figure, Goal, Unit
from tests.benchmarks.lab import Lab
from tests.benchmarks.peer_nix import NixPeer
from tests.benchmarks.rounds import Contestant, take_turns, timed
from tests.benchmarks.stocking import stock, write_item
from tests.benchmarks.subject import Subject

REFERENCES = 3


def collection(lab: Lab) -> Iterator[Figure]:
    """Delete a store's whole content, of which each item refers to three others."""
    amount = lab.scaled(100_000, 10_000)
    with ExitStack() as stack:
        subject = stack.enter_context(Subject())
        client = subject.driver()
        bystander = Bystander(client)
        collect = _collecting(client, subject.base / "state/db/db.sqlite", amount)
        peer = None
        if lab.peer is not None:
            other = stack.enter_context(NixPeer(1))
            peer = _collecting(other.driver(), other.base / "var/db/db.sqlite", amount)
        series = take_turns(
            lab.scaled(1, 2),
            lambda: bystander.watch(collect),
            floor=_deleting(lab.scratch / "garbage", amount),
            peer=peer,
        )
    goals = (Goal(50e-6, Against.NOTHING), Goal(1.0, Against.PEER))
    name = f"collection of {amount} items, each"
    yield Figure(name, "deleting as many, half of them directories", Unit.SECONDS, series, goals)
    yield bystander.figure(f"longest wait of another client, {amount} dead items", 0.050)


def _collecting(client: Driver, database: Path, amount: int) -> Contestant:
    rounds = count()

    def once() -> float:
        names = [f"dead-{next(rounds)}-{number}" for number in range(amount)]
        stock(client.store, database, names, REFERENCES)
        deleted = 0

        def collect() -> None:
            nonlocal deleted
            deleted = client.collect_garbage()

        taken = timed(collect)
        assert deleted == amount, deleted
        return taken / amount

    return once


def _deleting(place: Path, amount: int) -> Contestant:
    def delete(directory: int) -> None:
        for number in range(amount):
            if number % 2:
                os.unlink(f"{number}/file", dir_fd=directory)
                os.rmdir(f"{number}", dir_fd=directory)
            else:
                os.unlink(f"{number}", dir_fd=directory)

    def once() -> float:
        place.mkdir()
        for number in range(amount):
            write_item(place / f"{number}", b"%d" % number, inside=number % 2 == 1)
            if number % 2:
                (place / f"{number}").chmod(0o755)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        taken = timed(lambda: delete(directory))
        os.close(directory)
        place.rmdir()
        return taken / amount

    return once
