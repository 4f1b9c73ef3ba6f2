# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages: each survives its CBOR form, and what is no message is refused by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storedaemon.wire.native import messages as m
from storedaemon.wire.native.cbor import ItemLimits, encode
from storedaemon.wire.native.faults import FaultError
from storedaemon.wire.native.frames import PREFIX

LIMITS = ItemLimits()

ids = st.integers(0, m.MAX_ID)
words = st.text(min_size=1, max_size=m.MAX_WORD)
maps = st.dictionaries(st.text(), st.integers(0, 99) | st.text(), max_size=3)
features = st.frozensets(st.text(), max_size=3)
versions = st.integers(1, 9).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 9)))
event_fields = maps.map(
    lambda fields: {k: fields[k] for k in fields.keys() - {"type", "id", "event"}}
)

from_client = (
    st.builds(m.ClientHello, versions, features, ids, st.text())
    | st.builds(m.Request, ids, words, maps)
    | st.builds(m.Chunk, ids, st.binary())
    | st.builds(m.End, ids)
    | st.builds(m.Credit, ids, ids)
    | st.builds(m.Cancel, ids)
)
from_daemon = (
    st.builds(
        m.ServerHello,
        versions,
        features,
        st.dictionaries(st.text(), ids, max_size=3),
        st.text(),
        st.text(),
        st.text(),
        st.booleans(),
    )
    | st.builds(m.Reply, ids, maps)
    | st.builds(m.Failure, ids, words, st.text(), maps)
    | st.builds(m.Event, ids, words, event_fields)
    | st.builds(m.Chunk, ids, st.binary())
    | st.builds(m.Credit, ids, ids)
    | st.builds(m.Fault, words, st.text())
)


@given(from_client)
def test_client_messages_survive_their_form(message: m.Message):
    """What a client says is what the daemon reads."""
    body = m.encode_message(message)[PREFIX.size :]
    assert m.parse_message(body, m.FROM_CLIENT, LIMITS) == message


@given(from_daemon)
def test_daemon_messages_survive_their_form(message: m.Message):
    """What the daemon says is what a client reads."""
    body = m.encode_message(message)[PREFIX.size :]
    assert m.parse_message(body, m.FROM_DAEMON, LIMITS) == message


@given(
    st.dictionaries(
        st.sampled_from(["type", "id", "method", "params", "data", "bytes", "versions", "window"]),
        st.sampled_from([*m.FROM_CLIENT]) | maps | st.integers() | st.binary(),
    )
)
def test_any_map_is_a_message_or_a_fault(fields: dict[str, Any]):
    """Whatever a client puts into a map, the daemon reads it or says what is wrong."""
    try:
        message = m.parse_message(encode(fields), m.FROM_CLIENT, LIMITS)
    except FaultError:
        return
    body = m.encode_message(message)[PREFIX.size :]
    assert m.parse_message(body, m.FROM_CLIENT, LIMITS) == message


def test_unknown_keys_are_ignored():
    """A later version may add keys."""
    body = encode({"type": "end", "id": 1, "future": [1, 2]})
    assert m.parse_message(body, m.FROM_CLIENT, LIMITS) == m.End(1)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([], "not a map"),
        ({}, "'type'"),
        ({"type": "nonsense"}, "no message of type 'nonsense'"),
        ({"type": "reply", "id": 1, "result": {}}, "in this direction"),
        ({"type": "end"}, "'id'"),
        ({"type": "end", "id": -1}, "'id'"),
        ({"type": "end", "id": True}, "'id'"),
        ({"type": "end", "id": 2**53}, "'id'"),
        ({"type": "chunk", "id": 1, "data": "text"}, "'data' must be a byte string"),
        ({"type": "request", "id": 1, "method": ""}, "'method'"),
        ({"type": "request", "id": 1, "method": "x" * 257}, "'method'"),
        ({"type": "request", "id": 1, "method": "x", "params": []}, "'params' must be a map"),
        ({"type": "hello"}, "'versions'"),
        ({"type": "hello", "versions": [2, 1]}, "'versions'"),
        ({"type": "hello", "versions": [1, 1], "features": "x"}, "'features'"),
    ],
)
def test_malformed_messages_are_named(fields: Any, text: str):
    """A fault names the key that is wrong."""
    with pytest.raises(FaultError, match=text) as caught:
        m.parse_message(encode(fields), m.FROM_CLIENT, LIMITS)
    assert caught.value.reason == "malformed-message"
