# SPDX-License-Identifier: GPL-3.0-or-later
"""How a daemon is asked to stop, and what it returns."""

import os
import signal

import structlog
import trio
import trio.testing
from structlog.testing import capture_logs

from store.errors import DatabaseError
from storedaemon.stopping import Stop, watch_signals


async def test_a_signal_asks_for_an_orderly_stop():
    """SIGTERM ends the wait, and the exit code is 0."""
    stop = Stop(structlog.get_logger())
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, stop)
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(5):
            await stop.wait()
        nursery.cancel_scope.cancel()
    assert stop.exit_code == 0


async def test_a_part_that_crashes_stops_the_daemon_with_an_error():
    """The traceback is reported, and the daemon does not go on without the part."""
    stop = Stop(structlog.get_logger())

    async def broken() -> None:
        raise RuntimeError("broken")

    with capture_logs() as events:
        await stop.guard("scheduler", broken)
    assert (stop.asked, stop.exit_code) == (True, 1)
    assert [event["event"] for event in events] == ["part failed", "stopping"]
    assert events[0]["part"] == "scheduler"
    assert events[0]["exc_info"]


async def test_an_expected_error_is_reported_without_a_traceback():
    """What the owner can mend is told in a sentence, even out of a nursery."""
    stop = Stop(structlog.get_logger())

    async def broken() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise DatabaseError("schema 9 is not ours")

    with capture_logs() as events:
        await stop.guard("daemon", broken)
    assert stop.exit_code == 1
    assert [(event["event"], event["why"]) for event in events] == [
        ("stopping", "daemon: schema 9 is not ours")
    ]


async def test_a_part_that_ends_in_a_stop_is_no_fault():
    """After a signal, parts may end as they like."""
    stop = Stop(structlog.get_logger())
    stop.request("SIGTERM")
    await stop.guard("listener", trio.lowlevel.checkpoint)
    assert stop.exit_code == 0


async def test_a_cancelled_part_is_no_fault():
    """Cancelling a part is how a stop ends it."""
    stop = Stop(structlog.get_logger())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop.guard, "part", trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not stop.asked
