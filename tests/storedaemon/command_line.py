# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `storedaemon` as users run it: a process that finds the daemon by a variable."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

SECONDS = 60


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Runs commands.

    Attributes:
        socket: The daemon's native socket.
        variables: What the commands' environment has beside ours.
    """

    socket: str
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command."""
        return {**os.environ, "STOREDAEMON_SOCKET": self.socket, **self.variables}

    def words(self, *arguments: str) -> list[str]:
        """Give the words of a command, for those who start it themselves."""
        return [sys.executable, "-m", "storedaemon", *arguments]

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command that prints text to its end."""
        return subprocess.run(
            self.words(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def binary(self, *arguments: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run a command that reads or prints bytes to its end."""
        return subprocess.run(
            self.words(*arguments),
            env=self.environment,
            input=given,
            capture_output=True,
            check=False,
            timeout=SECONDS,
        )
