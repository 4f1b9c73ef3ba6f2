# SPDX-License-Identifier: GPL-3.0-or-later
"""How far builds are, as a value: events in, numbers and lines out, no terminal.

`Progress` is what the reporters of `storedaemon.cli.reporters` show.
"""

import codecs
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from builder import events
from store.paths import StorePath

LAST_LINES = 20
"""How many lines of a build's output are shown when it fails."""

_MAX_LINE = 4096


def short_name(path: str) -> str:
    """Give the name of an item without directory, hash and ``.drv``."""
    name = path.rpartition("/")[2].partition("-")[2] or path
    return name.removesuffix(".drv")


def printable(text: str) -> str:
    """Keep what cannot move a terminal's cursor or change its colours; tabs become blanks."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "" for c in text)


def elapsed(seconds: float) -> str:
    """Write how long something takes."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class LineCutter:
    """Cuts a builder's output into lines, across the pieces that it comes in."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Give each line that is complete; what a carriage return overwrote is left out."""
        *lines, self._begun = (self._begun + self._decoder.decode(data)).split("\n")
        self._begun = self._begun[-_MAX_LINE:]
        for line in lines:
            yield _visible(line)

    def rest(self) -> Iterator[str]:
        """Give the last line if it has no end."""
        begun, self._begun = self._begun, ""
        if begun:
            yield _visible(begun)


def _visible(line: str) -> str:
    return printable(line.rstrip("\r").rpartition("\r")[2])


@dataclass(slots=True)
class Running:
    """A build that is going on; `since` is on the caller's clock."""

    since: float
    log_file: str = ""
    cutter: LineCutter = field(default_factory=LineCutter)
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))


@dataclass(slots=True)
class Progress:
    """What is planned, running, waiting and over."""

    planned: set[StorePath] = field(default_factory=set)
    running: dict[StorePath, Running] = field(default_factory=dict)
    waiting: dict[StorePath, str] = field(default_factory=dict)
    built: list[StorePath] = field(default_factory=list)
    failed: dict[StorePath, events.BuildFailed] = field(default_factory=dict)
    ended: dict[StorePath, Running] = field(default_factory=dict)
    to_download: set[StorePath] = field(default_factory=set)
    downloaded: list[StorePath] = field(default_factory=list)

    def apply(self, event: object, now: float) -> list[str]:
        """Take an event; give the lines of build output that it completes."""
        match event:
            case events.GoalPlanned(drv=drv):
                self.planned.add(drv)
            case events.SubstitutePlanned(path=path):
                self.to_download.add(path)
            case events.SubstituteSucceeded(path=path):
                self.downloaded.append(path)
            case events.GoalWaiting(drv=drv, what=what, holder=holder):
                self.waiting[drv] = f"{what} ({holder})" if holder else what
            case events.BuildStarted(drv=drv, log_file=log_file):
                self.planned.add(drv)
                self.waiting.pop(drv, None)
                self.running[drv] = Running(now, log_file)
            case events.BuildLog(drv=drv, data=data) if drv in self.running:
                lines = list(self.running[drv].cutter.feed(data))
                self.running[drv].last_lines.extend(lines)
                return lines
            case events.BuildSucceeded(drv=drv) | events.ContentFound(drv=drv):
                self.planned.add(drv)
                self.built.append(drv)
                return self._end(drv)
            case events.BuildRetried(drv=drv):
                return self._end(drv)
            case events.BuildFailed(drv=drv):
                self.failed[drv] = event
                return self._end(drv)
        return []

    def totals(self) -> str:
        """Say in one line how far things are."""
        parts = [f"{len(self.built)} of {len(self.planned)} built"]
        if self.to_download:
            parts.append(f"{len(self.downloaded)} of {len(self.to_download)} downloaded")
        for count, word in (
            (len(self.running), "running"),
            (len(self.waiting), "waiting"),
            (len(self.failed), "failed"),
        ):
            if count:
                parts.append(f"{count} {word}")
        return ", ".join(parts)

    def _end(self, drv: StorePath) -> list[str]:
        self.waiting.pop(drv, None)
        running = self.running.pop(drv, None)
        if running is None:
            return []
        rest = list(running.cutter.rest())
        running.last_lines.extend(rest)
        self.ended[drv] = running
        return rest
