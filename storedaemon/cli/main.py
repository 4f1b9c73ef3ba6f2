# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `storedaemon`: reads the command line, runs a command, sets the exit code.

Entry point: `main`.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

from store.errors import StoreError
from storedaemon.cli.exits import Exit
from storedaemon.cli.parser import make_parser

_EXPORTS = "storedaemon.cli.exports"
_GARBAGE = "storedaemon.cli.garbage"
_HISTORY = "storedaemon.cli.history"
_KEYS = "storedaemon.cli.keys"
_MAINTENANCE = "storedaemon.cli.maintenance"
_CONTROL = "storedaemon.cli.control"
_DETACHING = "storedaemon.cli.detaching"
_MODULES = {
    "ps": "storedaemon.cli.watch",
    "enter": "storedaemon.cli.enter",
    "log": _CONTROL,
    "cancel": _CONTROL,
    "priority": _CONTROL,
    "events": _CONTROL,
    "detach": _DETACHING,
    "attach": _DETACHING,
    "detached": _DETACHING,
    "serve": "storedaemon.cli.serve",
    "build": "storedaemon.cli.build",
    "substitutes": "storedaemon.cli.substitutes",
    "verify": _MAINTENANCE,
    "repair": _MAINTENANCE,
    "optimise": _MAINTENANCE,
    "failed-paths": _MAINTENANCE,
    "gc": _GARBAGE,
    "roots": _GARBAGE,
    "content-sources": "storedaemon.cli.content_sources",
    "attempts": _HISTORY,
    "flaky": _HISTORY,
    "stats": "storedaemon.cli.statistics",
    "export": _EXPORTS,
    "import": _EXPORTS,
    "import-key": _KEYS,
    "generate-key": _KEYS,
}
_QUERIES = "storedaemon.cli.queries"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program, and give its exit code.

    Args:
        arguments: The command line without the program's name; by default the process's.
    """
    options = parse(arguments)
    try:
        code = _run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except (StoreError, OSError) as error:
        return report(error)
    return code


def parse(arguments: Sequence[str] | None) -> Namespace:
    """Read the command line; ends the process where it is wrong, as argparse does.

    Operands may stand on both sides of options: argparse alone takes a list of
    them in one piece only.
    """
    words = sys.argv[1:] if arguments is None else arguments
    parser = make_parser(words)
    options, rest = parser.parse_known_args(words)
    operands = vars(options).get("targets") or vars(options).get("paths")
    if rest and (operands is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest and operands is not None:
        operands += rest
    return options


def _run(options: Namespace) -> int:
    try:
        code: int = import_module(_MODULES.get(options.command, _QUERIES)).run(options)
    except BaseExceptionGroup as group:
        raise single_cause(group) from group
    return code


def single_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Give the exception that a group of tasks ended with: an interrupt before all else."""
    interrupts, _ = group.split(KeyboardInterrupt)
    found: BaseException = interrupts or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def report(error: StoreError | OSError) -> int:
    """Print an error for people, and give the exit code that says the same to programs."""
    message = error.message if isinstance(error, StoreError) else _system_message(error)
    sys.stderr.write(f"storedaemon: error: {message}\n")
    if isinstance(error, StoreError):
        if error.reason == "connection":
            return Exit.NO_DAEMON
        return error.status
    return Exit.ERROR


def _system_message(error: OSError) -> str:
    name = os.fsdecode(error.filename) if error.filename else ""
    return ": ".join(filter(None, [name, error.strerror or str(error)]))
