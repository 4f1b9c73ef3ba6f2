# SPDX-License-Identifier: GPL-3.0-or-later
"""What people are told of attempts."""

import pytest

from builder.retries.policy import Cause, Quiet
from builder.retries.records import Attempt, Flaky
from store.paths import StorePath
from storedaemon.cli.history import attempt_lines, flaky_line
from storedaemon.wire.native.attempts import attempt_map, flaky_map, parse_attempt, parse_flaky

DRV = StorePath("/gnu/store/" + "a" * 32 + "-demo-1.2.drv")
FAILED = Attempt(
    drv=DRV,
    name="demo-1.2.drv",
    number=1,
    started=0.0,
    seconds=12.34,
    cause=Cause.EXIT,
    detail="builder failed with exit code 1\x1b[31m",
    beside=3,
    load_before=7.5,
    load_after=8.25,
    memory_before=2 << 30,
    memory_after=1 << 30,
    peak_memory=512 << 20,
    cpu_seconds=0.0414,
    log_file="/var/log/guix/drvs/aa/x.drv.attempt-1.gz",
)
PASSED = FAILED._replace(number=2, cause=Cause.SUCCESS, detail="", quiet=Quiet.ALONE, beside=0)
FLAKY = Flaky("demo-1.2.drv", 3, 1, Quiet.HALF, 0.0)


def test_a_failed_attempt_is_told_with_its_circumstances():
    """And what it printed cannot write on the terminal."""
    first, *lines = attempt_lines(FAILED)
    assert first.endswith("  attempt 1 failed (exit) after 12.3 s")
    assert lines == [
        "  builder failed with exit code 1[31m",
        "  up to 3 other builds ran beside it",
        "  load 7.5 to 8.25, memory available 2048 to 1024 MiB",
        "  used 41 ms of processor time and up to 512 MiB",
        "  log /var/log/guix/drvs/aa/x.drv.attempt-1.gz",
    ]


def test_a_quiet_attempt_says_so():
    """Both what it wanted and what it had."""
    first, second, *_ = attempt_lines(PASSED)
    assert first.endswith("  attempt 2 succeeded after 12.3 s")
    assert second == "  nothing ran beside it; it was to run alone on the machine"


def test_what_is_flaky_is_counted_in_words():
    """One success is not several."""
    assert flaky_line(FLAKY).startswith(
        "demo-1.2.drv: 3 failures before 1 success, the last one"
        " with half as many builds beside it, "
    )


@pytest.mark.parametrize("attempt", [FAILED, PASSED])
def test_attempts_survive_the_wire(attempt: Attempt):
    """Every field, by the names of the protocol."""
    assert parse_attempt(attempt_map(attempt)) == attempt


def test_what_is_flaky_survives_the_wire():
    """As well."""
    assert parse_flaky(flaky_map(FLAKY)) == FLAKY
