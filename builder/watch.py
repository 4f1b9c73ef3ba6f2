# SPDX-License-Identifier: GPL-3.0-or-later
"""Watching a builder: what it prints is passed on, and it must not take or be silent too long.

Limits are those the client set for its builds; breaking one raises, and whoever
started the builder then ends it.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf

import trio

from builder.errors import BuildError
from builder.events import FailureKind

CHUNK = 64 * 1024
"""Bytes read at a time: what a pipe holds."""

NEVER = inf


@dataclass(frozen=True, slots=True)
class Limits:
    """What a builder may do; 0 means that it may do as it likes.

    Attributes:
        seconds: From its start to its end.
        silent_seconds: Between two pieces of output, and to its end.
        log_size: Bytes that it prints.
    """

    seconds: float = 0
    silent_seconds: float = 0
    log_size: int = 0


class Watch:
    """One builder being watched.

    Args:
        subject: What error messages call it, such as ``building of `/gnu/store/…'``.
        output: The read end of the pipe that it prints to; non-blocking.
        limits: What it may do.
        pass_on: Awaited with each piece of output.
    """

    def __init__(
        self,
        subject: str,
        output: int,
        limits: Limits,
        pass_on: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._subject = subject
        self._output = output
        self._limits = limits
        self._pass_on = pass_on
        self._size = 0
        self._passing_on = False
        self._started = self._last_output = trio.current_time()

    async def follow(self) -> None:
        """Pass on what the builder prints, until nothing holds the other end any more.

        Raises:
            BuildError: A limit was broken.
        """
        while True:
            await self._within_limits(self._readable)
            data = os.read(self._output, CHUNK)
            if not data:
                return
            await self._take(data)

    def heard(self) -> None:
        """Note that the builder is not silent, whatever else was heard of it."""
        self._last_output = trio.current_time()

    async def until(self, ended: Callable[[], Awaitable[object]]) -> None:
        """Wait for the builder's end, which may come after it closed its output.

        Raises:
            BuildError: A limit was broken.
        """
        await self._within_limits(ended)

    async def drain(self) -> None:
        """Pass on what is in the pipe, without waiting for more."""
        while True:
            try:
                data = os.read(self._output, CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            await self._take(data)

    async def _readable(self) -> None:
        await trio.lowlevel.wait_readable(self._output)

    async def _take(self, data: bytes) -> None:
        self._size += len(data)
        self._passing_on = True
        await self._pass_on(data)
        self._passing_on = False
        self.heard()
        if self._limits.log_size and self._size > self._limits.log_size:
            raise BuildError(
                f"{self._subject} killed after writing more than "
                f"{self._limits.log_size} bytes of log output",
                FailureKind.LOG_LIMIT,
            )

    async def _within_limits(self, wait: Callable[[], Awaitable[object]]) -> None:
        if not (self._limits.seconds or self._limits.silent_seconds):
            await wait()
            return
        while True:
            with trio.move_on_at(self._deadline):
                await wait()
                return
            # Another task may have heard of the builder meanwhile.
            if trio.current_time() >= self._deadline:
                raise self._broken_limit()

    @property
    def _deadline(self) -> float:
        return min(self._silence_ends, self._time_ends)

    @property
    def _silence_ends(self) -> float:
        seconds = self._limits.silent_seconds
        # A builder cannot print while nobody takes what it has printed.
        return self._last_output + seconds if seconds and not self._passing_on else NEVER

    @property
    def _time_ends(self) -> float:
        seconds = self._limits.seconds
        return self._started + seconds if seconds else NEVER

    def _broken_limit(self) -> BuildError:
        if self._silence_ends < self._time_ends:
            seconds = f"{self._limits.silent_seconds:g} seconds of silence"
            return BuildError(f"{self._subject} timed out after {seconds}", FailureKind.SILENT)
        seconds = f"{self._limits.seconds:g} seconds"
        return BuildError(f"{self._subject} timed out after {seconds}", FailureKind.TIMED_OUT)
