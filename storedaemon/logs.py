# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon reports of itself: structured events on standard error.

One event per connection, per RPC (at level debug) and per build. Context is
bound to a session's logger once and not repeated at each call. Text from
clients never breaks out of its field. Entry points: `configure`, `RpcLog`.
"""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

import structlog

Logger = structlog.typing.FilteringBoundLogger


class _Stream(Protocol):
    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...


class TolerantStream:
    """Standard error whose reader may vanish: what cannot be written is lost, not raised."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Write one event."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # a broken pipe, a full disk, a closed stream
            return 0

    def flush(self) -> None:
        """Hand the event to the kernel."""
        try:
            self._stream.flush()
        except (OSError, ValueError):  # as above
            return


def configure(level: str, form: str, stream: TextIO | None = None) -> Logger:
    """Set up reporting, and return the daemon's logger.

    Args:
        level: The least level that is reported: debug, info, warning or error.
        form: ``console``, ``json`` (one object a line), or ``auto``: the console
            form where `stream` is a terminal.
        stream: Where to, by default standard error.
    """
    target = sys.stderr if stream is None else stream
    if form == "auto":
        form = "console" if target.isatty() else "json"
    structlog.configure(
        processors=_processors(form, colors=target.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(TolerantStream(target)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    # `bind` gives a logger that is made up; `get_logger` alone one that is made up at each call.
    logger: Logger = structlog.get_logger().bind()
    return logger


def _processors(form: str, *, colors: bool) -> list[structlog.typing.Processor]:
    if form == "json":
        return [_json_line]
    plain = structlog.dev.plain_traceback
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=False),
        printable,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
    ]


# `json.dumps` would make an encoder for each event.
_encoder = json.JSONEncoder(default=str)


def _json_line(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """Do what a chain of structlog's processors would: there is an event for each build."""
    event["level"] = method
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, method, event)
    return _encoder.encode(event)


def printable(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Escape what would move the cursor or end the line: fields hold text from clients."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode("ascii")
    return event


class RpcLog:
    """Reports the RPCs of one session.

    A session's loop tests `enabled` before it takes the time or builds an
    event, so that a filtered event costs one attribute.

    Args:
        log: The session's logger.
        enabled: Whether RPCs are reported at all.
    """

    __slots__ = ("_log", "enabled")

    def __init__(self, log: Logger, *, enabled: bool) -> None:
        self._log = log
        self.enabled = enabled

    def finished(self, operation: str, started: float, outcome: str = "ok") -> None:
        """Report one RPC.

        Args:
            operation: Its name in the protocol.
            started: `time.perf_counter` when the request was read.
            outcome: ``ok``, or the reason of the error that answered it.
        """
        duration = (time.perf_counter() - started) * 1000
        self._log.debug("rpc", op=operation, ms=round(duration, 3), outcome=outcome)
