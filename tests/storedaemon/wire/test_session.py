# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's side of a connection: its handshake and its bodies."""

from collections.abc import Callable

import pytest

from storedaemon.wire import guix
from storedaemon.wire import messages as m
from storedaemon.wire.errors import LocalError, RemoteError
from storedaemon.wire.session import Greeting, GuixSession, Introduction, State


def word(value: int) -> bytes:
    """Give an integer's bytes."""
    return value.to_bytes(8, "little")


def greeted() -> GuixSession:
    """Make a session that waits for the client's version."""
    session = GuixSession()
    session.receive_data(word(guix.CLIENT_MAGIC))
    assert session.next_greeting() == Greeting(word(0x6478696F) + word(0x164))
    return session


@pytest.mark.parametrize(
    ("version", "rest", "hello"),
    [
        (0x164, word(0) + word(1), guix.ClientHello()),
        (0x164, word(1) + word(3) + word(0), guix.ClientHello(3, reserve_space=False)),
        (0x161, word(0) + word(0), guix.ClientHello(None, reserve_space=False)),
        (0x10D, word(0), guix.ClientHello(None, reserve_space=False)),
        (0x10A, b"", guix.ClientHello()),
    ],
)
def test_what_a_client_says_first_depends_on_its_version(
    version: int, rest: bytes, hello: guix.ClientHello
):
    """The affinity came with minor 14, the reserved space with 11; single bytes do."""
    session = greeted()
    found = None
    for byte in word(version) + rest:
        assert found is None
        session.receive_data(bytes([byte]))
        found = session.next_greeting()
    assert found == Introduction(version, hello)
    assert session.accept() == word(guix.LAST)
    assert session.at_boundary


@pytest.mark.parametrize("magic", [0, 0x6E697864, 2**63])
def test_other_first_words_are_refused(magic: int):
    """A peer of another protocol is recognised by its first word."""
    session = GuixSession()
    session.receive_data(word(magic))
    with pytest.raises(RemoteError):
        session.next_greeting()


@pytest.mark.parametrize("version", [0x264, 0x64, 0x10164, 2**32 - 1])
def test_another_major_version_is_told_so(version: int):
    """The client learns why, as an error at the end of the handshake."""
    session = greeted()
    session.receive_data(word(version) + word(0) + word(1))
    with pytest.raises(RemoteError, match="unsupported protocol version") as caught:
        session.next_greeting()
    assert caught.value.reason == "unsupported-version"
    assert session.refuse(caught.value.message).startswith(word(guix.ERROR))
    assert session.state is State.CLOSED


def test_requests_before_the_greeting_are_our_bug():
    """A driver that skips the handshake is wrong, whatever the peer sends."""
    with pytest.raises(LocalError):
        GuixSession().next_request()


def test_a_body_leaves_the_session_and_its_rest_comes_back(opened: Callable[[int], GuixSession]):
    """Bytes after a request belong to its body; what follows the body is the next request."""
    session = opened(0x64)
    head = word(7) + word(1) + b"n".ljust(8, b"\0") + word(1) + word(1)
    session.receive_data(head + word(6) + b"sha256\0\0" + b"BODY" + word(13))
    found = session.next_request()
    assert found is not None
    assert found[0].body is guix.Body.NAR
    assert session.begin_body() == b"BODY" + word(13)
    session.end_body(word(13))
    session.reply(found[0], m.TextReply("/p"))
    following = session.next_request()
    assert following is not None
    assert following[1] == m.SyncWithGC()


def test_a_pulled_stream_is_bounded_by_what_was_asked(opened: Callable[[int], GuixSession]):
    """A client may answer READ with less, but not with more."""
    session = opened(0x64)
    session.receive_data(word(27))
    assert session.next_request() is not None
    assert session.pull(8) == word(guix.READ) + word(8)
    session.receive_data(word(3) + b"abc\0\0\0\0\0")
    assert session.next_chunk(8) == b"abc"
    session.pull(8)
    session.receive_data(word(9) + b"123456789".ljust(16, b"\0"))
    with pytest.raises(RemoteError, match="9 bytes instead of at most 8"):
        session.next_chunk(8)
