# SPDX-License-Identifier: GPL-3.0-or-later
"""Events as Guix clients see them; the texts are those of the recordings."""

import pytest

from builder.events import (
    BuildEvent,
    BuildFailed,
    BuildLog,
    BuildStarted,
    BuildSucceeded,
    FailureKind,
    GoalPlanned,
    GoalWaiting,
    HashMismatch,
    Level,
    Message,
    OutputConfirmed,
    UnsupportedPlatform,
)
from store.paths import StorePath
from storedaemon.sessions.guix_output import Audience, render
from storedaemon.wire.messages import SetOptions

DRV = StorePath("/gnu/store/wz8xmng9p5h67i8ilcvi4qw27x41szgl-fails.drv")
OUT = StorePath("/gnu/store/vsy8c2nvmbzrsx7ij3f9x3dffb7x4fdz-fails")
LOG = "/var/log/guix/drvs/wz/8xmng9p5h67i8ilcvi4qw27x41szgl-fails.drv.gz"
EXIT = f"builder for `{DRV}' failed with exit code 7"
TRACED = Audience(verbosity=0, traces=True)
PLAIN = Audience(verbosity=0)


@pytest.mark.parametrize(
    ("event", "texts"),
    [
        (
            BuildStarted(DRV, "x86_64-linux", LOG, 357),
            [f"@ build-started {DRV} - x86_64-linux {LOG} 357\n"],
        ),
        (BuildStarted(DRV, "i686-linux", "", 1), [f"@ build-started {DRV} - i686-linux  1\n"]),
        (OutputConfirmed(DRV, OUT), [f"@ build-succeeded {DRV} -\n"]),
        (BuildSucceeded(DRV, (OUT,), 1.5), [f"@ build-succeeded {DRV} -\n"]),
        (
            BuildFailed(DRV, FailureKind.PERMANENT, EXIT),
            [f"{EXIT}\n", f"@ build-failed {DRV} - 1 {EXIT}\n"],
        ),
        (
            BuildFailed(DRV, FailureKind.INPUT_REJECTED, "no room", status=0),
            ["no room\n", f"@ build-failed {DRV} - 0 no room\n"],
        ),
        (
            BuildFailed(DRV, FailureKind.TIMED_OUT, f"building of `{DRV}' timed out"),
            [f"building of `{DRV}' timed out\n", f"@ build-failed {DRV} - timeout\n"],
        ),
        (
            BuildFailed(DRV, FailureKind.SILENT, "silent"),
            ["silent\n", f"@ build-failed {DRV} - timeout\n"],
        ),
        (
            BuildFailed(DRV, FailureKind.CACHED, f"builder for `{OUT}' failed previously (cached)"),
            [
                f"builder for `{OUT}' failed previously (cached)\n",
                f"@ build-failed {DRV} - cached\n",
            ],
        ),
        (BuildFailed(DRV, FailureKind.DEPENDENCY_FAILED, "an input"), ["an input\n"]),
        (BuildFailed(DRV, FailureKind.MISC, "cannot build missing"), ["cannot build missing\n"]),
        (BuildFailed(DRV, FailureKind.NOT_DETERMINISTIC, "differs"), []),
        (BuildFailed(DRV, FailureKind.CANCELLED, "cancelled"), []),
        (
            BuildFailed(DRV, FailureKind.HOOK, EXIT, status=256, remote=True),
            [f"@ hook-failed {DRV} - 256 {EXIT}\n"],
        ),
        (
            BuildFailed(DRV, FailureKind.PERMANENT, EXIT, remote=True),
            [f"@ build-failed {DRV} - 1 {EXIT}\n"],
        ),
        (
            BuildFailed(DRV, FailureKind.TIMED_OUT, EXIT, remote=True),
            [f"@ build-failed {DRV} - timeout\n"],
        ),
        (
            HashMismatch(OUT, "sha256", "04wp", "11qz"),
            [f"@ hash-mismatch {OUT} sha256 04wp 11qz\n"],
        ),
        (UnsupportedPlatform(DRV, "z80"), [f"@ unsupported-platform {DRV} z80\n"]),
        (GoalPlanned(DRV, 3), []),
        (GoalWaiting(DRV, "lock", "pid 5"), []),
    ],
)
def test_traces_have_the_texts_that_clients_parse(event: BuildEvent, texts: list[str]):
    """Each event becomes the lines that the C++ daemon sends, one text a line."""
    assert [text.decode() for text in render(event, TRACED)] == texts


@pytest.mark.parametrize(
    "event",
    [
        BuildStarted(DRV, "x86_64-linux", LOG, 357),
        BuildSucceeded(DRV, (OUT,), 1.5),
        HashMismatch(OUT, "sha256", "a", "b"),
        UnsupportedPlatform(DRV, "z80"),
    ],
)
def test_traces_are_left_out_unless_wanted(event: BuildEvent):
    """A client that did not ask for traces sees none."""
    assert list(render(event, PLAIN)) == []


def test_a_failure_without_traces_is_still_told():
    """The message comes alone."""
    event = BuildFailed(DRV, FailureKind.PERMANENT, EXIT)
    assert list(render(event, PLAIN)) == [f"{EXIT}\n".encode()]


def test_a_trace_stays_on_its_line():
    """A message of several lines cannot begin a trace of its own."""
    event = BuildFailed(DRV, FailureKind.PERMANENT, f"bad\n@ build-succeeded {DRV} -")
    assert list(render(event, TRACED))[1].count(b"\n") == 1


def test_builders_bytes_pass_unchanged():
    """Output is shown as it came, whatever its encoding."""
    assert list(render(BuildLog(DRV, 344, b"\xff\0\n"), PLAIN)) == [b"\xff\0\n"]


def test_multiplexed_output_says_whose_it_is_and_how_long():
    """The prefix is part of the same text."""
    event = BuildLog(DRV, 344, b"line 0\nerr\n")
    audience = Audience(multiplexed=True)
    assert list(render(event, audience)) == [b"@ build-log 344 11\nline 0\nerr\n"]


@pytest.mark.parametrize(
    ("verbosity", "build_verbosity", "shown"), [(0, 0, 1), (0, 1, 0), (3, 2, 1)]
)
def test_builders_output_is_shown_to_those_verbose_enough(
    verbosity: int, build_verbosity: int, shown: int
):
    """The client's verbosity must reach its build verbosity."""
    audience = Audience(verbosity=verbosity, build_verbosity=build_verbosity)
    assert len(list(render(BuildLog(DRV, 1, b"x"), audience))) == shown


@pytest.mark.parametrize(("level", "shown"), [(Level.ERROR, 1), (Level.INFO, 1), (Level.CHATTY, 0)])
def test_messages_are_shown_up_to_the_verbosity(level: Level, shown: int):
    """A client is shown information until it asks for more or less."""
    assert len(list(render(Message("text", level), Audience()))) == shown


def test_messages_say_their_level_to_those_who_parse_it():
    """Log type 1 marks every level but plain information."""
    audience = Audience.of(
        SetOptions(keep_failed=False, keep_going=False, fallback=False, verbosity=5, log_type=1),
        multiplexed=False,
    )
    assert list(render(Message("a", Level.ERROR), audience)) == [b"\033[0sa\n"]
    assert list(render(Message("a", Level.INFO), audience)) == [b"a\n"]
