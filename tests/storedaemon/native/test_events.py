# SPDX-License-Identifier: GPL-3.0-or-later
"""Build events on the wire."""

from typing import Any

import pytest

from builder import events as e
from storedaemon.wire.native import messages as m
from storedaemon.wire.native.cbor import ItemLimits
from storedaemon.wire.native.events import NAMES, UnknownEvent, event_fields, parse_event
from storedaemon.wire.native.frames import PREFIX
from storedaemon.wire.native.windows import MAX_STREAM_FRAME

DRV = "/gnu/store/" + "a" * 32 + "-hello.drv"

SAMPLES = [
    e.Message("hello", e.Level.ERROR),
    e.GoalPlanned(DRV, 3),
    e.GoalWaiting(DRV, "slot", "4 builds"),
    e.BuildStarted(DRV, "x86_64-linux", "/log/x.gz", 42),
    e.BuildLog(DRV, 42, b"line\n\xff"),
    e.OutputConfirmed(DRV, DRV[:-4]),
    e.ContentFound(DRV, DRV[:-4], "/media/dvd/hello.tar.gz"),
    e.BuildSucceeded(DRV, (DRV[:-4],), 1.5),
    e.BuildFailed(DRV, e.FailureKind.TIMED_OUT, "too slow", 101),
    e.HashMismatch(DRV, "sha256", "aa", "bb"),
    e.UnsupportedPlatform(DRV, "riscv64-linux"),
    e.ItemDamaged(DRV, e.Damage.MODIFIED, repaired=True),
]


def through_the_wire(name: str, fields: dict[str, Any]) -> e.BuildEvent | UnknownEvent:
    """Encode an event message and read it again."""
    body = m.encode_message(m.Event(1, name, fields))[PREFIX.size :]
    assert len(body) <= MAX_STREAM_FRAME
    message = m.parse_message(body, m.FROM_DAEMON, ItemLimits())
    return parse_event(message.event, message.fields)


def test_every_event_has_a_name():
    """An event added to the builder without a name here would fail its client."""
    assert set(NAMES) == set(e.BuildEvent.__args__)


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_events_arrive_as_they_were(event: e.BuildEvent):
    """A client reads the very event that the builder told."""
    assert [through_the_wire(*sent) for sent in event_fields(event)] == [event]


def test_long_output_comes_in_several_messages():
    """Each message fits the smallest window, and nothing is lost."""
    data = bytes(range(256)) * 1000
    sent = [through_the_wire(*each) for each in event_fields(e.BuildLog(DRV, 1, data))]
    assert len(sent) > 1
    assert b"".join(event.data for event in sent) == data


def test_long_texts_and_lists_are_cut():
    """A message with a novel in it still fits a frame."""
    (failed,) = (
        through_the_wire(*s)
        for s in event_fields(e.BuildFailed(DRV, e.FailureKind.MISC, "ä" * 10**6))
    )
    assert failed.message.endswith("ä…")
    (succeeded,) = (
        through_the_wire(*s) for s in event_fields(e.BuildSucceeded(DRV, (DRV,) * 10**5, 0.0))
    )
    assert 0 < len(succeeded.outputs) < 1000


def test_bytes_that_are_no_text_do_not_break_a_message():
    """File names may hold any bytes; CBOR text may not."""
    (event,) = (through_the_wire(*s) for s in event_fields(e.Message("caf\udce9")))
    assert event.text == "caf\ufffd"


@pytest.mark.parametrize(
    ("name", "fields"), [("novel", {"a": 1}), ("planned", {"drv": DRV}), ("log", {})]
)
def test_what_a_client_does_not_know_stays_as_it_came(name: str, fields: dict[str, Any]):
    """A newer daemon does not break an older client."""
    assert parse_event(name, fields) == UnknownEvent(name, fields)


def test_fields_that_a_client_does_not_know_are_ignored():
    """A newer daemon may add fields."""
    assert parse_event("planned", {"drv": DRV, "total": 1, "new": 2}) == e.GoalPlanned(DRV, 1)


def test_a_failure_of_a_new_kind_is_a_failure():
    """A client that does not know a kind takes the most general one."""
    event = parse_event("failed", {"drv": DRV, "kind": "novel", "message": "m"})
    assert event == e.BuildFailed(DRV, e.FailureKind.MISC, "m")
