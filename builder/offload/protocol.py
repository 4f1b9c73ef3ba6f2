# SPDX-License-Identifier: GPL-3.0-or-later
"""The build hook's protocol, without I/O: lines out, lines and answers in.

The daemon asks ``HERE SYSTEM DERIVATION FEATURES``, HERE being 1 if it could build
right now itself. The hook prints whatever it likes, and at last its answer on a line
that begins with ``# ``. After `accept` it reads one line of items that the other
machine needs and one of outputs that it must bring back, and the end of its input;
it prints what the builder prints to file descriptor 4, and brings the outputs into
the store itself: the daemon holds their locks meanwhile. Anything else may be asked
again of the same process. Entry points: `request_line`, `item_lines`, `AnswerReader`.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from builder.agents import MAX_LINE, AgentError
from store.derivations import Derivation
from store.errors import StoreError
from store.paths import StorePath, check_name

ANSWER_MARK = b"# "

# What `guix offload' takes for a system; any other derivation is for no machine of its.
_SYSTEM = re.compile(r"[a-z0-9_-]+")


class Answer(StrEnum):
    """What a hook says to a request."""

    ACCEPT = "accept"
    DECLINE = "decline"
    POSTPONE = "postpone"


class Requirements(NamedTuple):
    """What a machine must be to build a derivation.

    Attributes:
        system: Such as ``x86_64-linux``.
        features: Words of the attribute ``requiredSystemFeatures``.
    """

    system: str
    features: tuple[str, ...] = ()


def requirements_of(derivation: Derivation) -> Requirements | None:
    """Return what a derivation needs of a machine; None if no request can say it."""
    features = tuple(derivation.env.get("requiredSystemFeatures", "").split())
    if not _SYSTEM.fullmatch(derivation.system):
        return None
    try:
        for feature in features:
            check_name(feature)
    except StoreError:
        return None
    return Requirements(derivation.system, features)


def request_line(drv: StorePath, needs: Requirements, *, here: bool) -> bytes:
    """Ask whether the hook wants to build a derivation; `here` if the daemon could at once."""
    features = ",".join(needs.features)
    return f"{int(here)} {needs.system} {drv} {features}\n".encode()


def item_lines(inputs: Iterable[StorePath], outputs: Iterable[StorePath]) -> bytes:
    """Name the items that a hook that accepted needs, and those that it must bring back."""
    return b"".join(
        "".join(f"{path} " for path in sorted(paths)).encode() + b"\n"
        for paths in (inputs, outputs)
    )


class AnswerReader:
    """What a hook prints until it answers.

    Args:
        name: How errors name the hook.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self._data += data

    def next(self) -> Answer | str | None:
        """Return the answer, or a line before it, or None if more has to be received.

        Raises:
            AgentError: The answer is none of those that exist, or a line too long.
        """
        line, newline, rest = self._data.partition(b"\n")
        if len(line) > MAX_LINE:
            raise AgentError(f"{self._name} sent a line of over {MAX_LINE} octets")
        if not newline:
            return None
        self._data = rest
        if not line.startswith(ANSWER_MARK):
            return _text(line)
        return self._answer(_text(line.removeprefix(ANSWER_MARK)))

    def rest(self) -> bytes:
        """Take out what was received behind the last line."""
        data, self._data = self._data, bytearray()
        return bytes(data)

    def _answer(self, word: str) -> Answer:
        try:
            return Answer(word)
        except ValueError as error:
            raise AgentError(f"bad hook reply `{word:.200}' from {self._name}") from error


def _text(line: bytes | bytearray) -> str:
    return line.decode("utf-8", "surrogateescape")
