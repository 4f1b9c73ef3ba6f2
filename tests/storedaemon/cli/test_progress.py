# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress: numbers from events, and what is drawn of them."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import events as e
from storedaemon.cli.progress import LineCutter, Progress, printable, short_name
from storedaemon.cli.reporters import (
    JsonReporter,
    LineReporter,
    Style,
    TerminalReporter,
    status_lines,
)
from storedaemon.wire.native.events import UnknownEvent

PLAIN = Style(colours=False)


def drv(name: str) -> str:
    """Make the path of a derivation."""
    return f"/gnu/store/{'a' * 32}-{name}.drv"


A_BUILD = [
    e.GoalPlanned(drv("lib"), 1),
    e.GoalPlanned(drv("app"), 2),
    e.GoalWaiting(drv("lib"), "slot", "2 builds"),
    e.BuildStarted(drv("lib"), "x86_64-linux", "/l", 7),
    e.BuildLog(drv("lib"), 7, b"compiling\nlink"),
    e.BuildLog(drv("lib"), 7, b"ing"),
    e.BuildSucceeded(drv("lib"), (), 1.25),
    e.BuildStarted(drv("app"), "x86_64-linux", "/l", 8),
    e.BuildLog(drv("app"), 8, b"oh\x1b[2J no\n"),
    e.BuildFailed(drv("app"), e.FailureKind.PERMANENT, "it failed", 100),
]


def test_totals_follow_the_events():
    """What is planned, waits, runs and is over is counted."""
    progress = Progress()
    totals = []
    for event in A_BUILD:
        progress.apply(event, 0.0)
        totals.append(progress.totals())
    assert totals[1] == "0 of 2 built"
    assert totals[2] == "0 of 2 built, 1 waiting"
    assert totals[3] == "0 of 2 built, 1 running"
    assert totals[-1] == "1 of 2 built, 1 failed"


def test_lines_are_told_as_things_happen():
    """Without a terminal each event and each line of output is a line."""
    out = io.StringIO()
    reporter = LineReporter(out, PLAIN)
    for event in A_BUILD:
        reporter.event(event)
    assert out.getvalue().splitlines() == [
        f"building {drv('lib')}",
        "lib> compiling",
        "lib> linking",
        "built lib in 1.2 s",
        f"building {drv('app')}",
        "app> oh[2J no",
        f"failed {drv('app')} (permanent-failure): it failed",
    ]


def test_quiet_shows_failures_with_the_end_of_their_output():
    """Who wants to see little still sees why something failed."""
    out = io.StringIO()
    reporter = LineReporter(out, PLAIN, log=False, course=False)
    for event in A_BUILD:
        reporter.event(event)
    assert out.getvalue().splitlines() == [
        f"failed {drv('app')} (permanent-failure): it failed",
        "  oh[2J no",
        f"  the whole log: storedaemon log {drv('app')}",
    ]


def test_a_terminal_shows_a_line_for_each_running_build():
    """The status is drawn anew in place, and taken away at the end."""
    out, now = io.StringIO(), [0.0]
    reporter = TerminalReporter(out, PLAIN, clock=lambda: now[0], size=lambda: (40, 10))
    for event in A_BUILD[:6]:
        reporter.event(event)
    now[0] = 65.0
    reporter.tick()
    assert "lib 1m05s compiling\n0 of 2 built, 1 running\n" in out.getvalue()
    reporter.close()
    assert out.getvalue().endswith("\x1b[2A\x1b[J")
    drawn = out.getvalue().count("\x1b[J")
    reporter.close()
    assert out.getvalue().count("\x1b[J") == drawn


@given(st.integers(20, 60), st.integers(4, 12), st.integers(0, 30), st.text())
def test_the_status_fits_the_terminal(columns: int, rows: int, builds: int, line: str):
    """No line is as wide as the terminal, and there are fewer lines than rows."""
    progress = Progress()
    for number in range(builds):
        path = drv(f"p{number}-with-quite-a-long-name")
        progress.apply(e.BuildStarted(path, "x", "", number), 0.0)
        progress.apply(e.BuildLog(path, number, line.encode("utf-8", "replace") + b"\n"), 0.0)
    lines = status_lines(progress, 3.0, (columns, rows), PLAIN)
    assert len(lines) < rows
    assert all(len(shown) < columns for shown in lines)
    assert all(shown.isprintable() for shown in lines)


def test_colours_are_there_or_not():
    """Colour is wrapped around text, never mixed with it."""
    assert Style(colours=True).bad("x") == "\x1b[31mx\x1b[0m"
    assert PLAIN.bad("x") == "x"


def test_json_has_the_names_of_the_protocol():
    """Each line is an object; output that is no text is in base 64."""
    out = io.StringIO()
    reporter = JsonReporter(out)
    reporter.event(A_BUILD[3])
    reporter.event(e.BuildLog(drv("lib"), 7, b"\xff"))
    reporter.event(UnknownEvent("novel", {"x": 1}))
    started, log, novel = map(json.loads, out.getvalue().splitlines())
    assert started["event"] == "started"
    assert started["log-file"] == "/l"
    assert log["data-base64"] == "/w=="
    assert novel == {"event": "novel", "x": 1}


@given(st.lists(st.binary(max_size=20)))
def test_lines_do_not_depend_on_the_pieces(pieces: list[bytes]):
    """However a builder's output is cut, the lines are the same, and harmless."""
    whole, cut = LineCutter(), LineCutter()
    expected = [*whole.feed(b"".join(pieces)), *whole.rest()]
    found = [line for piece in pieces for line in cut.feed(piece)]
    assert [*found, *cut.rest()] == expected
    assert all(line.isprintable() for line in found)


def test_what_a_carriage_return_overwrote_is_left_out():
    """A progress meter leaves its last state, as on a terminal."""
    assert list(LineCutter().feed(b"10%\r50%\r100%\r\nnext\n")) == ["100%", "next"]


@pytest.mark.parametrize(
    ("path", "name"),
    [(drv("a-b-1.0"), "a-b-1.0"), (drv("x")[:-4], "x"), ("/gnu/store/x", "/gnu/store/x"), ("", "")],
)
def test_short_names(path: str, name: str):
    """A reader wants the name, not the hash; what has neither stays."""
    assert short_name(path) == name


def test_printable_keeps_text_and_drops_control():
    """Letters of any language stay, escapes and bells go, tabs become blanks."""
    assert printable("a\tb\x07ü\x1b[1m\u202e") == "a bü[1m"
