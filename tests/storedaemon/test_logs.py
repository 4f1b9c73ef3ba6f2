# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: their form, their context, and what they cost when nobody wants them."""

import io
import json
import time
from collections.abc import Iterator

import pytest
import structlog

from storedaemon.logs import RpcLog, TolerantStream, configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave structlog as it was."""
    yield
    structlog.reset_defaults()


def test_json_events_are_one_object_a_line():
    """Programs read one object a line, with level, time and context."""
    stream = io.StringIO()
    log = configure("info", "json", stream).bind(session=3, dialect="guix")
    log.info("connected", user="alice\n\x1b[31m")
    log.debug("invisible")
    try:
        int("broken")
    except ValueError:
        log.exception("session failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["event"] == "connected"
    assert (first["session"], first["dialect"], first["level"]) == (3, "guix", "info")
    assert first["user"] == "alice\n\x1b[31m"
    assert "ValueError: invalid literal" in second["exception"]


def test_text_from_clients_stays_in_its_field():
    """A client cannot forge lines or move the cursor of whoever reads the console."""
    stream = io.StringIO()
    configure("info", "console", stream).info("refused", path="/x\nforged \x1b[31mred")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_auto_means_json_without_a_terminal():
    """A file gets objects."""
    stream = io.StringIO()
    configure("info", "auto", stream).info("event")
    assert json.loads(stream.getvalue())["event"] == "event"


def test_a_reader_that_vanished_harms_nothing():
    """What cannot be written is lost."""
    stream = io.StringIO()
    log = configure("info", "json", stream)
    stream.close()
    log.info("event")

    class Broken(io.StringIO):
        def write(self, _text: str, /) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    tolerant = TolerantStream(Broken())
    assert tolerant.write("x") == 0
    tolerant.flush()


def test_an_rpc_is_one_event():
    """Name, duration and outcome are in it."""
    stream = io.StringIO()
    rpc_log = RpcLog(configure("debug", "json", stream), enabled=True)
    rpc_log.finished("query-path-info", time.perf_counter() - 0.5, "not-valid")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["op"], event["outcome"]) == (
        "rpc",
        "query-path-info",
        "not-valid",
    )
    assert event["ms"] >= 500


def test_an_unwanted_rpc_event_costs_next_to_nothing():
    """A loop that tests `enabled` first pays well under two microseconds an RPC."""
    rpc_log = RpcLog(configure("info", "json", io.StringIO()), enabled=False)
    rounds = 20_000

    def once() -> float:
        started = time.perf_counter()
        for _ in range(rounds):
            if rpc_log.enabled:
                rpc_log.finished("op", started)
        return (time.perf_counter() - started) / rounds

    assert min(once() for _ in range(5)) < 2e-6
