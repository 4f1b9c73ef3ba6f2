# SPDX-License-Identifier: GPL-3.0-or-later
"""What was said to the C++ daemon, said to this one: on ``/gnu/store`` every path is the same.

A daemon sees a ``/gnu/store`` of its own, which the recordings begin with empty. Left out of
the comparison are times, processes, names of logs, which system call refused a builder, and
what `guix substitute` and the collector show people meanwhile.
"""

import platform
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from storedaemon.wire import messages as m
from storedaemon.wire.guix_client import DataChunk, Event, Failed, Finished, LogText
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.substitutes.server import Shelf
from tests.storedaemon.wire.conversation import (
    TRANSCRIPTS,
    Conversation,
    replay,
    turns,
    version_of,
)

pytestmark = pytest.mark.root

ITEM = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-offered"
DERIVER = "/gnu/store/00000000000000000000000000000001-offered.drv"
HELLO = "/gnu/store/zgrjk2xmrg2pdam04w0a9xpp3zv11bky-hello.txt"

ALIKE = [
    *("handshake-01", "substitutable-18"),
    *sorted(file.stem for file in TRANSCRIPTS.glob("refused-*")),
    *sorted(file.stem for file in TRANSCRIPTS.glob("minor-*")),
]

# A root directory that has all that the machine's has, and a /gnu/store.
SCRIPT = """
set -e
mkdir -p {base}/root {base}/store
mount -t tmpfs root {base}/root
for each in /*; do
    if [ -L $each ]; then cp -P $each {base}/root/
    elif [ -d $each ]; then mkdir {base}/root$each; mount --rbind $each {base}/root$each; fi
done
mkdir -p {base}/root/gnu/store {base}/root/.old
mount --bind {base}/store {base}/root/gnu/store
cd {base}/root
pivot_root . .old
umount -l /.old
exec "$@"
"""


@dataclass
class DaemonOfGnu(RunningDaemon):
    """A daemon whose store is ``/gnu/store``, in a mount namespace of its own."""

    @property
    def store(self) -> str:
        """The store directory, as the daemon sees it."""
        return "/gnu/store"

    def start(self, *options: str, **how: object) -> None:
        """Start the process in its namespace."""
        script = SCRIPT.format(base=self.base)
        environment = how.pop("environment", {})
        assert isinstance(environment, dict)
        super().start(
            *options,
            environment=environment,
            wrapper=("unshare", "--mount", "sh", "-c", script, "sh"),
        )


def repeat(daemon: RunningDaemon, transcript: Path) -> Conversation:
    """Say what a recording's client said, each time that the daemon has answered."""
    conversation = Conversation(version_of(transcript))
    with daemon.connect_guix() as connection:
        for speaker, data in turns(transcript):
            if speaker == "client":
                conversation.from_client(data)
                connection.sendall(data)
            else:
                _listen(conversation, connection)
    return conversation


def _listen(conversation: Conversation, connection: socket.socket) -> None:
    heard = len(conversation.events)
    while len(conversation.events) == heard or isinstance(
        conversation.events[-1], LogText | DataChunk
    ):
        data = connection.recv(64 * 1024)
        assert data, conversation.events
        conversation.from_daemon(data)


def told(conversation: Conversation) -> list[Event]:
    """Give what a daemon said, without what differs from run to run."""
    events: list[Event] = []
    for event in conversation.events:
        if isinstance(event, LogText):
            text = _lasting(event.data.decode())
            if text and events and isinstance(events[-1], LogText):
                events[-1] = LogText(events[-1].data + text.encode())
            elif text:
                events.append(LogText(text.encode()))
        elif isinstance(event, Finished) and isinstance(event.reply, m.PathInfoReply):
            events.append(Finished(replace(event.reply, registration_time=0)))
        else:
            events.append(event)
    return events


def _lasting(text: str) -> str:
    text = re.sub(r"(?m)(@ build-started .*) \S*/drvs/(..)/+(\S+) \d+$", r"\1 LOGS/\2\3 PID", text)
    text = re.sub(r"(?m)(in phase exec): .*", r"\1", text)
    kept = [line for line in text.splitlines(keepends=True) if not line.startswith(PASSING)]
    return "".join(kept)


PASSING = (
    "substitute: ",
    "`/usr/bin/slirp4netns' can't be found",
    "finding garbage collector roots",
    "removing stale temporary roots file",
    "determining live/dead paths",
)


@pytest.fixture
def daemon(start_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> RunningDaemon:
    """A daemon with an empty store, which is offered what was offered to the C++ daemon."""
    shelf = Shelf(tmp_path)
    shelf.offer(ITEM, b"offered\n", HELLO, deriver=DERIVER, download=120)
    return start_daemon(
        "--no-offload",
        "--substitute-urls=file:///srv/cache",
        kind=DaemonOfGnu,
        environment=shelf.environment,
    )


def differences(daemon: RunningDaemon, name: str) -> list[tuple[Event, Event]]:
    """Give what the C++ daemon said where this one says something else, and that."""
    transcript = TRANSCRIPTS / f"{name}.jsonl"
    pairs = zip(told(replay(transcript)), told(repeat(daemon, transcript)), strict=True)
    return [(theirs, ours) for theirs, ours in pairs if theirs != ours]


def test_the_same_is_answered(daemon: RunningDaemon):
    """Replies, and errors with their status, in every recorded version."""
    assert {name: found for name in ALIKE if (found := differences(daemon, name))} == {}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the recorded builders are programs")
@pytest.mark.parametrize("name", ["queries-17", "requisites-19", "builds-20"])
def test_the_same_is_built(daemon: RunningDaemon, name: str):
    """A small program is added and run; what it makes, or may not make, is as recorded."""
    assert differences(daemon, name) == []


def test_the_same_is_added_and_known_of_it(daemon: RunningDaemon):
    """One session after the other; the shell that was used there is no part of the recordings."""
    assert differences(daemon, "add-03") == [
        (Failed("unknown hash type", 1), Failed("unknown hash type `md7'", 1))
    ]
    missing = "path `/gnu/store/i0zi8i0gwbbkynssiq3a9pwwfdcgfwrv-sh' is not valid"
    with_substitutes = Finished(m.TextsReply(("file:///srv/cache",)))
    assert differences(daemon, "query-04") == [
        (Finished(m.TextsReply(())), Failed(missing, 1)),
        (Finished(m.TextsReply(())), with_substitutes),
    ]
    assert differences(daemon, "maintenance-16") == []
