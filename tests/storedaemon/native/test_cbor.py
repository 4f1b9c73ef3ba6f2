# SPDX-License-Identifier: GPL-3.0-or-later
"""The strict CBOR decoder: it takes what the protocol uses, and names what it refuses."""

import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storedaemon.wire.native.cbor import ItemLimits, decode, encode
from storedaemon.wire.native.faults import FaultError

LIMITS = ItemLimits()

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def depth_of(value: Any) -> int:
    """Count containers inside each other."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


# Trees take long to make on a busy machine, which is no fault of the codec.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_what_is_encoded_decodes_to_itself(value: Any):
    """Every value that the protocol can hold survives the way there and back."""
    if depth_of(value) <= LIMITS.depth:
        assert decode(encode(value), LIMITS) == value


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_fault(data: bytes):
    """Bytes from anywhere give a value or a fault, and nothing else."""
    try:
        value = decode(data, LIMITS)
    except FaultError:
        return
    assert decode(encode(value), LIMITS) == value or value != value  # noqa: PLR0124 - NaN


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(values, st.data())
def test_cut_short_is_a_fault(value: Any, data: st.DataObject):
    """No proper beginning of an item is an item."""
    whole = encode(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FaultError):
        decode(whole[:cut], LIMITS)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "cut short"),
        (b"\x00\x00", "1 bytes after the item"),
        (b"\xc0\x61x", "a tag"),
        (cbor2.dumps(2**64), "a tag"),
        (b"\xd8\x1c\x81\xd8\x1d\x00", "a tag"),
        (b"\x9f\xff", "indefinite"),
        (b"\x5f\x41x\xff", "indefinite"),
        (b"\xff", "indefinite"),
        (b"\x1c", "other than|reserved"),
        (b"\xf7", "other than"),
        (b"\xf8\xff", "indefinite|other than|cut"),
        (b"\xa1\x01\x02", "not text"),
        (b"\xa1\x80\x02", "not text"),
        (b"\xa2\x61x\x01\x61x\x02", "twice"),
        (b"\xa2\x61x\x01\x78\x01x\x02", "twice"),
        (b"\x62\xff\xff", "not UTF-8"),
        (b"\x5b" + b"\xff" * 8, "cut short"),
        (b"\x7b\x00\x00\x00\x01\x00\x00\x00\x00", "cut short"),
        (b"\x9b" + b"\xff" * 8, "announces"),
        (b"\xbb" + b"\xff" * 8, "announces"),
        (b"\x81" * 9 + b"\x00", "too deep"),
        (b"\x82" + b"\x81" * 200, "too deep"),
    ],
)
def test_refusals_name_the_fault(data: bytes, text: str):
    """What the protocol does not use is refused in words."""
    with pytest.raises(FaultError, match=text) as caught:
        decode(data, LIMITS)
    assert caught.value.reason == "malformed-cbor"


def test_depth_counts_nested_containers_only():
    """As many containers as there are levels fit side by side."""
    assert decode(encode([[[[1]]], [[[2]]]]), ItemLimits(depth=4)) == [[[[1]]], [[[2]]]]
    with pytest.raises(FaultError, match="too deep"):
        decode(encode([[[[1]]]]), ItemLimits(depth=3))


def test_items_are_bounded_before_they_are_made():
    """A frame of a megabyte of empty maps costs no objects."""
    data = b"\x9a\x00\x0f\x00\x00" + b"\xa0" * 0xF0000
    tracemalloc.start()
    try:
        with pytest.raises(FaultError, match="announces"):
            decode(data, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_items_of_all_containers_add_up():
    """Many small containers are no way around the bound on items."""
    row = [0] * 9
    assert len(decode(encode([row] * 10), ItemLimits(items=100))) == 10
    with pytest.raises(FaultError, match="announces"):
        decode(encode([row] * 11), ItemLimits(items=100))
