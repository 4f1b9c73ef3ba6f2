# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling how a download goes: in Guix's lines for programs, or in some for people."""

from collections.abc import Callable
from typing import TextIO

TRACE_SECONDS = 0.2
TEXT_SECONDS = 10.0


class Progress:
    """The progress of one download.

    Args:
        output: Where lines are written.
        file: What is made.
        url: Where it comes from.
        traces: Whether the lines are for programs.
        clock: Tells seconds.
    """

    def __init__(
        self, output: TextIO, file: str, url: str, *, traces: bool, clock: Callable[[], float]
    ) -> None:
        self._output = output
        self._what = f"{file} {url}"
        self._traces = traces
        self._clock = clock
        self._size = "-"
        self._next = 0.0
        self._started = False

    def start(self, size: int | None) -> None:
        """Tell that a download begins, of so many bytes if that is known."""
        self._size = "-" if size is None else str(size)
        if self._traces and not self._started:
            self._line(f"@ download-started {self._what} {self._size}")
        self._started = True
        self._next = self._clock() + (TRACE_SECONDS if self._traces else TEXT_SECONDS)

    def report(self, received: int) -> None:
        """Tell how many bytes there are, if it is time."""
        now = self._clock()
        if now < self._next:
            return
        if self._traces:
            self._next = now + TRACE_SECONDS
            self._line(f"@ download-progress {self._what} {self._size} {received}")
        else:
            self._next = now + TEXT_SECONDS
            self._line(f"  {received} of {self._size} bytes")

    def finish(self, received: int) -> None:
        """Tell that everything is there."""
        if self._traces:
            self._line(f"@ download-progress {self._what} {self._size} {received}")
            self._line(f"@ download-succeeded {self._what} {received}")
        else:
            self._line(f"  {received} bytes")

    def _line(self, text: str) -> None:
        self._output.write(f"{text}\n")
        self._output.flush()
