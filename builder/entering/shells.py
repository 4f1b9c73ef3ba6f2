# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the place of a builder: a shell of the container's own, or a command.

Entry points: `find_shell`, which looks at files, and `shell_command`, which is pure.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from builder.container import Command
from builder.environment import octets
from store.paths import StorePath, name_of

_SHELLS = ("bash", "sh", "dash", "ash", "ksh", "zsh")
_SYSTEM_SHELL = "/bin/sh"
_PLAIN = ("static", "minimal")  # builds of bash without line editing
_RUN = '"$@"; exit $?'


def find_shell(
    builder: str,
    direct: Collection[StorePath],
    inputs: Iterable[StorePath],
    directories: Iterable[str],
) -> str:
    """Find the shell that is the most like the builder's; empty where the container has none.

    Args:
        builder: The derivation's builder, which may be a shell.
        direct: The inputs that the derivation names.
        inputs: All items that are in the container.
        directories: What else is in it, each as ``TARGET=SOURCE`` or a plain path.
    """
    if builder.rpartition("/")[2] in _SHELLS:
        return builder

    def rank(item: StorePath) -> tuple[bool, bool, bool, str]:
        name = name_of(item)
        plain = any(word in name for word in _PLAIN)
        return "bash" not in name, plain, item not in direct, item

    candidates = (f"{item}/bin/{name}" for item in sorted(inputs, key=rank) for name in _SHELLS[:2])
    places = (candidate for candidate in candidates if os.path.exists(candidate))
    return next(places, "") or next(_outside(directories), "")


def _outside(directories: Iterable[str]) -> Iterator[str]:
    """Yield the usual shell if it is in a directory of the host that builders see."""
    for text in directories:
        target, _, source = text.partition("=")
        below = f"{_SYSTEM_SHELL}/".startswith(f"{target}/")
        if below and os.path.exists((source or target) + _SYSTEM_SHELL[len(target) :]):
            yield _SYSTEM_SHELL


def shell_command(usual: Command, shell: str, words: tuple[str, ...], term: str) -> Command:
    """Give what is executed instead of the builder, with all else as the builder has it.

    Words of a command go through the shell, which finds the program, and reaps what it
    leaves: a container's first process gets no signal that it does not ask for.

    Args:
        usual: How the builder is executed.
        shell: The shell; empty for none, if the words begin with an absolute path.
        words: A command and its arguments; none for a shell that reads commands.
        term: The kind of terminal; empty for none.
    """
    program, arguments = shell, [shell.rpartition("/")[2]]
    if words and shell:
        arguments += ["-c", _RUN, arguments[0], *words]
    elif words:
        program, arguments = words[0], list(words)
    environment = usual.environment
    if term:
        others = tuple(pair for pair in environment if pair[0] != b"TERM")
        environment = (*others, (b"TERM", octets(term)))
    return replace(
        usual,
        program=octets(program),
        arguments=tuple(map(octets, arguments)),
        environment=environment,
        beneath=None,
    )
