# SPDX-License-Identifier: GPL-3.0-or-later
"""Replaying recorded conversations of Guix's client with the C++ daemon.

A file is one connection; a line of it is what one side said before the other spoke.
Entry points: `Conversation`, `replay`, `recordings`.
"""

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

TRANSCRIPTS = Path(__file__).parent.parent / "data" / "transcripts"


def recordings() -> list[Path]:
    """Give all recordings."""
    return sorted(TRANSCRIPTS.glob("*.jsonl"))


def turns(transcript: Path) -> Iterator[tuple[str, bytes]]:
    """Yield who spoke, and what."""
    for line in transcript.read_text().splitlines():
        entry = json.loads(line)
        yield entry["from"], bytes.fromhex(entry["hex"])


def version_of(transcript: Path) -> int:
    """Give the version of the client, which is the first word of the second that it says."""
    client = [data for speaker, data in turns(transcript) if speaker == "client"]
    return int.from_bytes(client[1][:8], "little")


class Conversation:
    """Both ends at once: each decodes what was recorded of the other, and says it again."""

    def __init__(self, version: int) -> None:
        self.daemon = GuixSession()
        self.client = GuixClientSession(version)
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
    conversation = Conversation(version_of(transcript))
    for speaker, data in turns(transcript):
        repeat = conversation.from_client if speaker == "client" else conversation.from_daemon
        assert repeat(data) == data
    return conversation
