# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames: cut from a byte stream however it is chopped up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storedaemon.wire.native.faults import FaultError
from storedaemon.wire.native.frames import MAX_FRAME, FrameReader, encode_frame


@given(st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(1, 20)))
def test_pieces_of_any_size_give_the_same_frames(bodies: list[bytes], cuts: list[int]):
    """Where the stream is cut makes no difference."""
    stream = b"".join(map(encode_frame, bodies))
    reader, received = FrameReader(), []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        received += reader.feed(stream[:size])
        stream = stream[size:]
    assert received == bodies
    assert reader.pending == 0


def test_a_frame_that_began_is_pending():
    """The reader knows when a stream ends within a frame."""
    reader = FrameReader()
    assert list(reader.feed(encode_frame(b"hello")[:-1])) == []
    assert reader.pending == 8


@pytest.mark.parametrize("prefix", [b"\0\0\0\0", b"\0\x10\0\1", b"\xff\xff\xff\xff", b"cxin"])
def test_impossible_sizes_are_faults(prefix: bytes):
    """A size is refused before its bytes are waited for, another protocol's first word too."""
    with pytest.raises(FaultError) as caught:
        list(FrameReader().feed(prefix))
    assert caught.value.reason == "frame-size"


def test_frames_before_a_fault_are_given():
    """What came before nonsense was said and counts."""
    frames = FrameReader().feed(encode_frame(b"a") + b"\xff\xff\xff\xff")
    assert next(frames) == b"a"
    with pytest.raises(FaultError):
        next(frames)


def test_the_longest_frame_passes_and_a_longer_one_is_not_made():
    """The bound is the same on both sides."""
    body = bytes(MAX_FRAME)
    assert list(FrameReader().feed(encode_frame(body))) == [body]
    with pytest.raises(ValueError, match="more than"):
        encode_frame(body + b"x")
