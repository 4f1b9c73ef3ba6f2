# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways to show a build: plain lines, a live status on a terminal, JSON, or errors only.

Everything goes to standard error but JSON, which is this command's result.
`make_reporter` chooses.
"""

import base64
import json
import os
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from builder import events
from builder.retries.policy import TERMS
from store.paths import StorePath
from storedaemon.cli.progress import Progress, Running, elapsed, printable, short_name
from storedaemon.wire.native.events import NAMES, UnknownEvent

Clock = Callable[[], float]

_REDRAW_SECONDS = 0.1
_WAITING_SHOWN = 3


class Reporter(Protocol):
    """Shows the events of a build."""

    def event(self, event: events.BuildEvent | UnknownEvent) -> None:
        """Show one event."""

    def tick(self) -> None:
        """Show that time passes."""

    def close(self) -> None:
        """Leave nothing unfinished on the screen."""


def make_reporter(options: Namespace) -> Reporter:
    """Choose by the options, and by what standard error is."""
    if options.json:
        return JsonReporter(sys.stdout)
    if options.quiet:
        return LineReporter(sys.stderr, style(sys.stderr), log=False, course=False)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalReporter(sys.stderr, style(sys.stderr), log=options.print_log)
    return LineReporter(sys.stderr, style(sys.stderr))


class Style:
    """Colours, or their absence."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def bold(self, text: str) -> str:
        """What matters most."""
        return self._wrap("1", text)

    def good(self, text: str) -> str:
        """What went well."""
        return self._wrap("32", text)

    def bad(self, text: str) -> str:
        """What went wrong."""
        return self._wrap("31", text)

    def faint(self, text: str) -> str:
        """What matters less."""
        return self._wrap("2", text)

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text


def style(stream: TextIO) -> Style:
    """Use colours on a terminal, unless ``NO_COLOR`` is set to anything."""
    return Style(colours=stream.isatty() and not os.environ.get("NO_COLOR"))


class LineReporter:
    """One line for each thing that happens, and for each line of output.

    Args:
        out: Where to.
        look: The colours.
        log: Whether build output is shown as it comes.
        course: Whether beginnings and ends are shown; failures always are.
    """

    def __init__(
        self,
        out: TextIO,
        look: Style,
        *,
        log: bool = True,
        course: bool = True,
        clock: Clock = time.monotonic,
    ) -> None:
        self.progress = Progress()
        self.out = out
        self.look = look
        self._log = log
        self._course = course
        self._clock = clock

    def event(self, event: events.BuildEvent | UnknownEvent) -> None:
        """Show one event."""
        source = self.look.faint(short_name(getattr(event, "drv", "")) + ">")
        for line in self.progress.apply(event, self._clock()):
            if self._log:
                self.line(f"{source} {line}")
        if line := self._describe(event):
            self.line(line)
        if isinstance(event, events.BuildFailed) and not self._log:
            self._show_end_of_log(event.drv)

    def tick(self) -> None:
        """Nothing moves here."""

    def close(self) -> None:
        """Nothing is unfinished here."""

    def line(self, text: str) -> None:
        """Print a line."""
        self.out.write(text + "\n")
        self.out.flush()

    def _describe(self, event: events.BuildEvent | UnknownEvent) -> str:
        look = self.look
        match event:
            case events.BuildStarted(drv=drv) if self._course:
                return f"{look.bold('building')} {drv}"
            case events.BuildSucceeded(drv=drv, seconds=seconds) if self._course:
                return f"{look.good('built')} {short_name(drv)} in {seconds:.1f} s"
            case events.BuildFailed() | events.BuildRetried():
                return _failure(event, look)
            case events.HashMismatch(path, algorithm, expected, actual):
                return (
                    f"{look.bad('hash mismatch')} {path}: expected {algorithm} {expected},"
                    f" got {actual}"
                )
            case events.GoalShared() | events.Message() if self._course:
                return printable(event.text)
            case _:
                return self._describe_download(event)

    def _describe_download(self, event: events.BuildEvent | UnknownEvent) -> str:
        look = self.look
        match event:
            case events.ContentFound(output=output, source=source) if self._course:
                return f"{look.good('copied')} {output} from {printable(source)}"
            case events.SubstituteStarted(path) if self._course:
                return f"{look.bold('downloading')} {path}"
            case events.SubstituteSucceeded(path=path, seconds=seconds) if self._course:
                return f"{look.good('downloaded')} {short_name(path)} in {seconds:.1f} s"
            case events.SubstituteFailed(path=path, message=message):
                return f"{look.bad('not downloaded')} {path}: {printable(message)}"
            case events.SubstituterOutput(data=data) if self._course:
                return printable(data.decode("utf-8", "replace").strip())
            case _:
                return ""

    def _show_end_of_log(self, drv: StorePath) -> None:
        ended = self.progress.ended.get(drv)
        if ended is None:
            return
        for line in ended.last_lines:
            self.line(f"  {line}")
        if ended.log_file:
            self.line(f"  the whole log: storedaemon log {drv}")


def _failure(event: events.BuildFailed | events.BuildRetried, look: Style) -> str:
    failed, message = f"{look.bad('failed')} {event.drv}", printable(event.message)
    if isinstance(event, events.BuildFailed):
        return f"{failed} ({event.kind}): {message}"
    terms = TERMS.get(event.quiet, event.quiet)
    following = f"attempt {event.attempt + 1} of {event.attempts} follows, {terms}"
    return f"{failed} ({event.cause}): {message}; {following}"


class TerminalReporter(LineReporter):
    """Lines as above, and below them a status: a line for each running build, and totals."""

    def __init__(
        self,
        out: TextIO,
        look: Style,
        *,
        log: bool = False,
        clock: Clock = time.monotonic,
        size: Callable[[], tuple[int, int]] = shutil.get_terminal_size,
    ) -> None:
        super().__init__(out, look, log=log, clock=clock)
        self._time = clock
        self._size = size
        self._drawn = 0
        self._next_draw = 0.0

    def event(self, event: events.BuildEvent | UnknownEvent) -> None:
        """Show one event, and how far things are."""
        super().event(event)
        if self._time() >= self._next_draw:
            self.tick()

    def tick(self) -> None:
        """Draw the status anew."""
        self._next_draw = self._time() + _REDRAW_SECONDS
        lines = status_lines(self.progress, self._time(), self._size(), self.look)
        self._erase()
        self.out.write("".join(f"{line}\n" for line in lines))
        self.out.flush()
        self._drawn = len(lines)

    def line(self, text: str) -> None:
        """Print a line above the status."""
        self._erase()
        super().line(text)

    def close(self) -> None:
        """Take the status away."""
        self._erase()
        self.out.flush()

    def _erase(self) -> None:
        if self._drawn:
            self.out.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0
            self._next_draw = 0.0


def status_lines(progress: Progress, now: float, size: tuple[int, int], look: Style) -> list[str]:
    """Give the status: never wider or higher than the terminal."""
    columns, rows = max(size[0], 20), max(size[1], 4)
    shown = list(progress.running.items())[: rows - 2]
    lines = [_running_line(drv, running, now, columns, look) for drv, running in shown]
    for drv, what in list(progress.waiting.items())[: min(_WAITING_SHOWN, rows - 2 - len(lines))]:
        text = printable(f"{short_name(drv)} waits for {what}")
        lines.append(look.faint(text[: columns - 1]))
    totals = progress.totals()
    hidden = len(progress.running) - len(shown)
    if hidden:
        totals += f" ({hidden} not shown)"
    return [*lines, look.bold(totals[: columns - 1])]


def _running_line(drv: StorePath, running: Running, now: float, columns: int, look: Style) -> str:
    head = f"{short_name(drv)} {elapsed(now - running.since)} "[: columns - 1]
    last = running.last_lines[-1] if running.last_lines else ""
    return head + look.faint(last[: columns - 1 - len(head)])


class JsonReporter:
    """One JSON object a line, with the events' names and fields as in the protocol.

    Output of builders is text where it is UTF-8, and otherwise base 64 under ``data-base64``.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def event(self, event: events.BuildEvent | UnknownEvent) -> None:
        """Print one event."""
        self._out.write(json.dumps(json_event(event), ensure_ascii=False) + "\n")
        self._out.flush()

    def tick(self) -> None:
        """Nothing moves here."""

    def close(self) -> None:
        """Nothing is unfinished here."""


def json_event(event: events.BuildEvent | UnknownEvent) -> dict[str, Any]:
    """Give an event as JSON values."""
    if isinstance(event, UnknownEvent):
        return {"event": event.event, **dict(_json_field(*pair) for pair in event.fields.items())}
    fields = (_json_field(name.replace("_", "-"), getattr(event, name)) for name in event.__slots__)
    return {"event": NAMES[type(event)], **dict(fields)}


def _json_field(name: str, value: Any) -> tuple[str, Any]:
    if not isinstance(value, bytes):
        return name, value
    try:
        return name, value.decode()
    except UnicodeDecodeError:
        return f"{name}-base64", base64.b64encode(value).decode()
