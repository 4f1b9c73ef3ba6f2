# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the benchmarks: what to measure, and where the figures go.

Entry point: `main`. Each measure is a function that yields figures; `MEASURES` names them.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks import content, peer_nix, surroundings
from tests.benchmarks.figures import Figure
from tests.benchmarks.lab import Lab, Side
from tests.benchmarks.measures import (
    additions,
    building,
    garbage,
    inputs,
    locks,
    process,
    queries,
    sessions,
    walk,
)
from tests.benchmarks.nix_client import NixError
from tests.benchmarks.pinning import cpus
from tests.benchmarks.subject import Subject
from tests.benchmarks.table import as_data, as_text

Measure = Callable[[Lab], Iterator[Figure]]

MEASURES: dict[str, Measure] = {
    "help": process.command_line,
    "start": process.start,
    "connect": sessions.connect,
    "is-valid": queries.is_valid_path,
    "path-info": queries.path_info,
    "add-text": additions.text,
    "references": walk.references,
    "add-file": additions.file,
    "add-tree": additions.tree,
    "memory": process.memory,
    "idle": sessions.idle_clients,
    "locks": locks.many,
    "chain": building.chain,
    "jobs": building.independent,
    "valid-build": queries.valid_build,
    "scan": building.scan,
    "inputs": inputs.many,
    "gc": garbage.collection,
}


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, and return 0, or 1 if a goal was missed."""
    signal.signal(signal.SIGTERM, _stop)
    options = _parser().parse_args(arguments)
    wanted = options.only or list(MEASURES)
    figures: list[Figure] = []
    try:
        with ExitStack() as stack:
            lab = _set_up(stack, options)
            for name in wanted:
                figures += _measure(name, lab)
    finally:
        if figures:
            _say(f"\n{as_text(figures)}")
            if options.json:
                _write(options.json, figures)
    return 1 if any(figure.met is False for figure in figures) else 0


def _stop(_number: int, _frame: object) -> None:
    """End in order, so that no daemon is left."""
    sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks",
        description="Measure the daemon against the bare system and, where there is one, a peer.",
    )
    parser.add_argument("--quick", action="store_true", help="less work, for a rough idea")
    parser.add_argument(
        "--only", action="append", choices=MEASURES, metavar="NAME", help=", ".join(MEASURES)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there, too")
    parser.add_argument("--no-peer", action="store_true", help="leave nix-daemon out")
    parser.add_argument(
        "--build-users-group",
        metavar="GROUP",
        help="have builds run as its members; to root, the default is one that exists",
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where stores are made, instead of in memory"
    )
    return parser


def _set_up(stack: ExitStack, options: argparse.Namespace) -> Lab:
    if options.directory is not None:
        tempfile.tempdir = str(options.directory.resolve())
    elif os.geteuid() == 0:
        tempfile.tempdir = stack.enter_context(surroundings.private_memory())
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-scratch-")))
    scratch.chmod(0o755)
    program = content.compile_builder(scratch)
    group = options.build_users_group or surroundings.build_users_group()
    _say(f"Stores lie in {tempfile.gettempdir()}; builds run as {group or 'whoever runs them'}.")
    settings = ["--max-jobs", f"{building.JOBS}"]
    settings += ["--build-users-group", group] if group else []
    subject = stack.enter_context(Subject(*settings))
    ours = Side(subject.driver(), program)
    peer = None if options.no_peer else _peer(stack, program, group)
    return Lab(ours, peer, scratch, program, cpus(), options.quick)


def _peer(stack: ExitStack, program: Path, group: str) -> Side | None:
    """Start the peer, where it is installed and can build here."""
    if peer_nix.program() is None:
        return None
    peer = stack.enter_context(peer_nix.NixPeer(building.JOBS, group))
    side = Side(peer.driver(), program)
    recipe = side.recipes.make()
    side.add([recipe])
    try:
        side.build([recipe])
    except NixError as error:
        _say(f"No peer: nix-daemon cannot build here: {error}")
        return None
    return side


def _measure(name: str, lab: Lab) -> list[Figure]:
    started = time.monotonic()
    figures = list(MEASURES[name](lab))
    _say(f"{name}: {time.monotonic() - started:.0f} s")
    return figures


def _write(file: Path, figures: Sequence[Figure]) -> None:
    machine = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": len(cpus()),
        "load": os.getloadavg(),
        "peer": shutil.which("nix-daemon"),
    }
    data = {"machine": machine, "figures": as_data(figures)}
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, flush=True, file=sys.stdout)  # noqa: T201 - what the benchmarks are for
