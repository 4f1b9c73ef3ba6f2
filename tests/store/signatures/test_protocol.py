# SPDX-License-Identifier: GPL-3.0-or-later
"""The mini-protocol of ``guix authenticate``."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.signatures.protocol import (
    MAX_ARGUMENT,
    ProtocolError,
    Reply,
    ReplyReader,
    Request,
    RequestReader,
)

REQUESTS = st.builds(
    Request,
    st.text("abcxyz", min_size=1, max_size=8),
    st.lists(st.binary(max_size=30), max_size=4).map(tuple),
)


def test_the_words_are_those_of_the_reference():
    """A request and a reply, to the byte."""
    assert Request("sign", (b"/k.sec", b"ab")).encode() == b"sign 6:/k.sec 2:ab\n"
    assert Reply(0, b"(x)\n").encode() == b"0 4:(x)\n"


@given(st.lists(REQUESTS, max_size=4), st.integers(1, 20))
def test_requests_are_read_however_they_are_cut(requests: list[Request], size: int):
    """What is written is read again; newlines in arguments are nothing special."""
    data = b"".join(request.encode() for request in requests)
    reader = RequestReader()
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    assert [found for piece in pieces for found in reader.feed(piece)] == requests
    assert not reader.pending


@given(st.integers(0, 999), st.binary(max_size=50), st.integers(1, 20))
def test_a_reply_is_read_however_it_is_cut(code: int, text: bytes, size: int):
    """And not before it is complete."""
    data = Reply(code, text).encode()
    reader = ReplyReader()
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    found = [reader.feed(piece) for piece in pieces]
    assert found == [None] * (len(pieces) - 1) + [Reply(code, text)]


@pytest.mark.parametrize(
    "data",
    [b"Backtrace:\n0 1:x", b"0", b" 1:x", b"0 1:xy", b"0  1:x", b"-1 1:x", b"0 99999999:", b"0 x"],
)
def test_a_reply_that_is_none_is_refused(data: bytes):
    """Even one with a reply somewhere in it."""
    with pytest.raises(ProtocolError):
        assert ReplyReader().feed(data + b"\n") is not None


@pytest.mark.parametrize(
    "data",
    [b"SIGN 1:x\n", b"a" * 40, b"sign x:y\n", b"sign 1:xy\n", b"sign 1x:y\n", b"sign 9999999:"],
)
def test_a_request_that_is_none_is_refused(data: bytes):
    """Nobody knows where the next one would begin."""
    with pytest.raises(ProtocolError):
        RequestReader().feed(data)


def test_lengths_are_not_believed():
    """They are compared with the bound before anything is waited for."""
    with pytest.raises(ProtocolError, match="announced"):
        ReplyReader().feed(b"0 %d:" % (MAX_ARGUMENT + 1))
    with pytest.raises(ProtocolError, match="announced"):
        RequestReader().feed(b"verify %d:" % (MAX_ARGUMENT + 1))


@given(st.binary(max_size=60))
def test_no_bytes_do_worse_than_an_error(data: bytes):
    """Whatever comes, it is read or refused."""
    for reader in (RequestReader(), ReplyReader()):
        with suppress(ProtocolError):
            reader.feed(data)
