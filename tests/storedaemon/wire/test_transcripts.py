# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded conversations of Guix's client with the C++ daemon: every byte, both ways."""

from collections.abc import Iterator
from pathlib import Path

from storedaemon.wire import guix
from storedaemon.wire import messages as m
from storedaemon.wire.guix_client import Failed, Finished
from storedaemon.wire.layout import LATEST, Field
from storedaemon.wire.session import State

from .conversation import TRANSCRIPTS, recordings, replay


def test_every_byte_is_understood_and_said_again(transcript: Path):
    """Decoding and encoding give the recorded bytes, on both sides."""
    conversation = replay(transcript)
    assert conversation.daemon.state is State.READY
    assert conversation.requests


def test_every_operation_is_recorded():
    """An operation that is added to the table needs a recording of what the C++ daemon says."""
    seen = {type(request) for each in recordings() for request in replay(each).requests}
    assert {row.request for row in guix.TABLE} == seen


def test_every_difference_between_versions_is_recorded():
    """Wherever a field begins or ends, the versions on both sides of that are recorded."""
    recorded = {
        (kind, minor)
        for conversation in map(replay, recordings())
        for minor in [conversation.daemon.minor]
        for kind in {guix.ClientHello, *map(type, conversation.requests)}
    }
    assert set(_boundaries()) - recorded == set()


def _boundaries() -> Iterator[tuple[type, int]]:
    """Yield messages, by their requests, and minor versions between which they differ."""
    kinds: list[tuple[type, tuple[Field, ...]]] = [(guix.ClientHello, guix.CLIENT_HELLO)]
    kinds += [(row.request, row.fields + guix.REPLIES[row.reply]) for row in guix.TABLE]
    for kind, fields in kinds:
        for edge in {each for field in fields for each in (field.since, field.before)}:
            if 0 < edge < LATEST:
                yield from ((kind, edge - 1), (kind, edge))


def test_errors_have_a_status_since_minor_8():
    """In the recordings of the versions before and after."""
    for minor, status in ((7, 0), (8, 1)):
        conversation = replay(TRANSCRIPTS / f"minor-{minor:02x}.jsonl")
        assert [each.status for each in conversation.events if isinstance(each, Failed)] == [status]


def test_sizes_of_what_is_offered_are_told_since_minor_7():
    """In the recordings of the versions before and after."""
    for minor, size in ((6, 0), (7, 120)):
        conversation = replay(TRANSCRIPTS / f"minor-{minor:02x}.jsonl")
        replies = [event.reply for event in conversation.events if isinstance(event, Finished)]
        offers = [each.info for each in replies if isinstance(each, m.SubstitutableReply)]
        assert [each and (each.download_size, each.nar_size) for each in offers] == [
            (120, size),
            None,
        ]


def test_a_refused_path_is_answered_and_the_connection_goes_on():
    """The recording of the handshake shows an error in work, and a request after it."""
    conversation = replay(TRANSCRIPTS / "handshake-01.jsonl")
    assert Failed("path `/not-a-store-path' is not in the store", 1) in conversation.events
    assert conversation.requests[-1] == m.IsValidPath("/gnu/store/short")
    assert conversation.events[-1] == Finished(m.Truth(value=False))


def test_build_failures_carry_the_status_that_clients_expect():
    """100 for a permanent failure, 101 for a timeout, 1 for the rest."""
    conversation = replay(TRANSCRIPTS / "build-failures-07.jsonl")
    statuses = [event.status for event in conversation.events if isinstance(event, Failed)]
    assert statuses == [100, 1, 101, 1, 1]
