# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded conversations of Guix's client with the C++ daemon: every byte, both ways."""

import json
from collections.abc import Iterator
from pathlib import Path

from store.nar.reader import NarReader
from storedaemon.wire import guix
from storedaemon.wire import messages as m
from storedaemon.wire.guix_client import (
    DaemonHello,
    DataChunk,
    DataWanted,
    Event,
    Failed,
    Finished,
    GuixClientSession,
    LogText,
)
from storedaemon.wire.session import Greeting, GuixSession, Introduction, State

from .conftest import TRANSCRIPTS


class Conversation:
    """Both ends at once: each decodes what was recorded of the other, and says it again."""

    def __init__(self) -> None:
        self.daemon = GuixSession()
        self.client = GuixClientSession()
        self.operation: guix.Operation | None = None
        self.requests: list[m.Request] = []
        self.events: list[Event] = []
        self.wanted = 0

    def from_client(self, data: bytes) -> bytes:
        """Decode what the client said, and encode it again."""
        self.daemon.receive_data(data)
        said = b"".join(self._repeat_client())
        assert self.daemon.pending == 0
        return said

    def _repeat_client(self) -> Iterator[bytes]:
        state = self.daemon.state
        if state is State.GREETING:
            assert isinstance(self.daemon.next_greeting(), Greeting)
            yield self.client.start()
        elif state is State.VERSION:
            introduction = self.daemon.next_greeting()
            assert isinstance(introduction, Introduction)
            yield self.client.introduce(introduction.hello)
        elif state is State.BODY:
            chunk = self.daemon.next_chunk(self.wanted)
            assert chunk is not None
            yield self.client.chunk(chunk)
        else:
            yield from self._repeat_request()

    def _repeat_request(self) -> Iterator[bytes]:
        found = self.daemon.next_request()
        assert found is not None
        self.operation, request = found
        self.requests.append(request)
        yield self.client.request(request)
        if self.operation.body is guix.Body.NAR:
            body = self.daemon.begin_body()
            reader = NarReader()
            reader.feed(body)
            assert (reader.finished, reader.excess) == (True, 0)
            yield body
            self.daemon.end_body(b"")

    def from_daemon(self, data: bytes) -> bytes:
        """Decode what the daemon said, and encode it again."""
        self.client.receive_data(data)
        said = b""
        while self.client.pending:
            event = self.client.next_event()
            assert event is not None
            self.events.append(event)
            said += self._repeat_event(event)
        return said

    def _repeat_event(self, event: Event) -> bytes:  # noqa: PLR0911 - one a kind of event
        match event:
            case DaemonHello(version):
                return guix.DAEMON_MAGIC.to_bytes(8, "little") + version.to_bytes(8, "little")
            case LogText(data):
                return self.daemon.log(data)
            case DataWanted(length):
                self.wanted = length
                return self.daemon.pull(length)
            case DataChunk(data):
                return self.daemon.send_chunk(data)
            case Failed(message, status):
                return self.daemon.error(message, status)
            case Finished(reply) if self.operation is not None:
                return self.daemon.reply(self.operation, reply)
            case _:
                return self.daemon.accept()


def replay(transcript: Path) -> Conversation:
    """Feed a recording to both ends, and compare what they say again with it."""
    conversation = Conversation()
    for line in transcript.read_text().splitlines():
        entry = json.loads(line)
        data = bytes.fromhex(entry["hex"])
        repeat = conversation.from_client if entry["from"] == "client" else conversation.from_daemon
        assert repeat(data) == data
    return conversation


def test_every_byte_is_understood_and_said_again(transcript: Path):
    """Decoding and encoding give the recorded bytes, on both sides."""
    conversation = replay(transcript)
    assert conversation.daemon.state is State.READY
    assert conversation.requests


def test_the_recordings_hold_the_operations_they_were_made_for():
    """Each request that the recorded client can send is in one of the recordings."""
    seen = {type(request) for each in recordings() for request in replay(each).requests}
    assert {row.request for row in guix.TABLE} - seen == {
        m.QueryDeriver,
        m.QueryDerivationOutputNames,
        m.QueryAllValidPaths,
        m.QueryValidPaths,
        m.QuerySubstitutablePathInfo,
        m.SyncWithGC,
    }


def recordings() -> list[Path]:
    """Give all recordings."""
    return sorted(TRANSCRIPTS.glob("*.jsonl"))


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
