# SPDX-License-Identifier: GPL-3.0-or-later
"""A shell in the place of a builder, as its client sees it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from builder.events import BuildEvent
from storedaemon.client.connection import CHUNK_SIZE, Exchange
from storedaemon.wire.native.events import UnknownEvent, parse_event
from storedaemon.wire.native.messages import Chunk


@dataclass(frozen=True, slots=True)
class EnterWishes:
    """What a client wants to enter, and what to run there.

    Attributes:
        fresh: Whether to begin with a new build directory, not a kept one.
        command: Words to run; none for a shell.
        terminal: Columns and rows of a terminal to run it on; None for pipes.
        type: What kind of terminal it is.
    """

    fresh: bool = False
    command: tuple[str, ...] = ()
    terminal: tuple[int, int] | None = None
    type: str = ""

    def as_map(self) -> dict[str, Any]:
        """Give the parameters of `enter` that say this."""
        values: dict[str, Any] = {"fresh": self.fresh, "command": list(self.command)}
        if self.terminal:
            columns, rows = self.terminal
            values["terminal"] = {"columns": columns, "rows": rows, "type": self.type}
        return values


@dataclass(frozen=True, slots=True)
class Entered:
    """The shell runs.

    Attributes:
        pid: Its process.
        kept: The kept directory that it has a copy of; empty for a new one.
    """

    pid: int
    kept: str


class Shell:
    """A shell that runs: iterate over it for what happens, and what it prints.

    Args:
        exchange: The request.
        call: Calls other methods on the same connection.
    """

    def __init__(
        self, exchange: Exchange, call: Callable[..., Awaitable[Mapping[str, Any]]]
    ) -> None:
        self._exchange = exchange
        self._call = call

    def __aiter__(self) -> "Shell":
        return self

    async def __anext__(self) -> bytes | Entered | BuildEvent | UnknownEvent:
        """Give what was printed, or an event; `Entered` comes before the first bytes."""
        message = await self._exchange.next()
        if message is None:
            raise StopAsyncIteration
        if isinstance(message, Chunk):
            return message.data
        if message.event == "entered":
            return Entered(message.fields["pid"], message.fields["kept"])
        return parse_event(message.event, message.fields)

    async def send(self, data: bytes) -> bool:
        """Let the shell read something; tells False once it has ended."""
        pieces = (data[at : at + CHUNK_SIZE] for at in range(0, len(data), CHUNK_SIZE))
        for piece in pieces:
            if not await self._exchange.send_chunk(piece):
                return False
        return True

    async def end_input(self) -> None:
        """Let the shell read the end of its input."""
        await self._exchange.send_end()

    async def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal."""
        await self._call("resize", request=self._exchange.id, columns=columns, rows=rows)

    async def ended(self) -> Mapping[str, Any]:
        """Wait for its end; the keys are in `docs/protocol.md`.

        Raises:
            DaemonError: It could not be run.
        """
        return await self._exchange.result()
