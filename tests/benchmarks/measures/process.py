# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon as a process: its start, its memory, its command line."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from store.nar import writer
from store.nar.events import Content, NarEvent, Regular
from tests.benchmarks import content, driver, floors, processes
from tests.benchmarks.driver import Driver
from tests.benchmarks.figures import Against, Figure, Goal, Series, Unit
from tests.benchmarks.lab import Lab, empty
from tests.benchmarks.peer_nix import NixPeer
from tests.benchmarks.rounds import Contestant, take_turns, timed
from tests.benchmarks.subject import Subject

GIB = 1024 * 1024 * 1024
MIB = 1024 * 1024

START_SECONDS = 20.0


def start(lab: Lab) -> Iterator[Figure]:
    """Start a daemon that has a store, and ask it something as soon as it listens."""
    with ExitStack() as stack:
        ours = _starting(stack.enter_context(Subject()))
        peer = _starting(stack.enter_context(NixPeer(1))) if lab.peer is not None else None
        series = take_turns(lab.rounds, ours, floor=floors.interpreter_start, peer=peer)
    goals = (Goal(0.5, Against.NOTHING),)
    yield Figure("first reply after the start", "start of Python", Unit.SECONDS, series, goals)


def _starting(daemon: Subject | NixPeer) -> Contestant:
    daemon.stop()
    request = driver.path_request(driver.IS_VALID_PATH, f"{daemon.store.path}/{'0' * 32}-none")

    def once() -> float:
        began = time.perf_counter()
        daemon.launch()
        client = _connect(daemon, began + START_SECONDS)
        with client.line() as line:
            line.ask(request, 16)
        taken = time.perf_counter() - began
        daemon.stop()
        return taken

    return once


def _connect(daemon: Subject | NixPeer, deadline: float) -> Driver:
    while time.perf_counter() < deadline:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return daemon.driver()
        time.sleep(0.001)
    raise RuntimeError("the daemon does not listen")


def command_line(lab: Lab) -> Iterator[Figure]:
    """Ask the command line for help."""
    script = Path(sys.executable).with_name("storedaemon")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "storedaemon"]

    def ask() -> None:
        root = Path(__file__).parents[3]
        subprocess.run([*command, "--help"], check=True, stdout=subprocess.DEVNULL, cwd=root)

    series = take_turns(lab.rounds, lambda: timed(ask), floor=floors.interpreter_start)
    goals = (Goal(0.2, Against.NOTHING),)
    yield Figure("storedaemon --help", "start of Python", Unit.SECONDS, series, goals)


def memory(lab: Lab) -> Iterator[Figure]:
    """Add a file much larger than what the daemon may use."""
    size = lab.scaled(GIB, 256 * MIB)
    with Subject() as subject:
        ours = _growth(subject.driver(), size)
    peer = []
    if lab.peer is not None:
        with NixPeer(1) as other:
            peer.append(_growth(other.driver(), size))
    series = Series([ours], peer=peer)
    goals = (Goal(64 * MIB, Against.NOTHING),)
    name = f"memory over idle, adding {size // MIB} MiB"
    notes = ("resident peaks of the daemon and its helpers, added up",)
    yield Figure(name, "", Unit.BYTES, series, goals, notes)


def _growth(client: Driver, size: int) -> float:
    """Tell how far the resident memory rises above what it is after a small addition."""
    client.add_file("small", bytes(MIB))
    processes.forget_peak(client.pid)
    idle = processes.resident(client.pid)
    path = client.add_archive("large", writer.write(_large_file(size)))
    growth = processes.peak(client.pid) - idle
    empty(path)
    return growth


def _large_file(size: int) -> Iterator[NarEvent]:
    piece = memoryview(content.random_bytes(content.PIECE))
    yield Regular(b"", executable=False, size=size)
    for _ in range(size // len(piece)):
        yield Content(piece)
