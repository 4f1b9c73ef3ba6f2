# SPDX-License-Identifier: GPL-3.0-or-later
"""A native client that keeps to no rule: a fault with a reason, and one session less."""

import struct

import cbor2
import pytest

from tests.hostile.conftest import Victim
from tests.hostile.peers import RawNative

HELLO = {"type": "hello", "versions": [1, 1]}
LONG = 1 << 20

FRAMES = {
    "nothing": (b"", "frame-size"),
    "junk": (b"\xff" * 50, "malformed-cbor"),
    "cut short": (b"\xa1", "malformed-cbor"),
    "two items": (b"\xa0\xa0", "malformed-cbor"),
    "endless nesting": (b"\x81" * LONG, "malformed-cbor"),
    "nested maps": (b"\xa1\x61a" * 300_000, "malformed-cbor"),
    "an array of 2^64-1": (b"\x9b" + b"\xff" * 8, "malformed-cbor"),
    "a map of 2^64-1": (b"\xbb" + b"\xff" * 8, "malformed-cbor"),
    "text of 2^64-1": (b"\x7b" + b"\xff" * 8, "malformed-cbor"),
    "bytes of 2^63": (b"\x5b\x80" + bytes(7), "malformed-cbor"),
    "an indefinite map": (b"\xbf\xff", "malformed-cbor"),
    "a bignum": (b"\xc2\x58\xff" + bytes(255), "malformed-cbor"),
    "a shared value": (b"\xd8\x1c\x81\xd8\x1d\x00", "malformed-cbor"),
    "a million items": (b"\x9a\x00\x0f\xff\x00" + bytes(0xFFF00), "malformed-cbor"),
    "text that is none": (b"\xa1\x64type\x62\xff\xfe", "malformed-cbor"),
    "a key twice": (b"\xa2\x64type\x61x\x64type\x61y", "malformed-cbor"),
    "no map": (cbor2.dumps([1, 2]), "malformed-message"),
    "no type": (cbor2.dumps({}), "malformed-message"),
    "an unknown type": (cbor2.dumps({"type": "x"}), "malformed-message"),
    "a second hello": (cbor2.dumps(HELLO), "malformed-message"),
    "a daemon's message": (cbor2.dumps({"type": "reply", "id": 0, "result": {}}), "malformed"),
    "an id of 2^64-1": (
        cbor2.dumps({"type": "request", "id": (1 << 64) - 1, "method": "ping", "params": {}}),
        "malformed-message",
    ),
    "a negative id": (
        cbor2.dumps({"type": "request", "id": -1, "method": "ping", "params": {}}),
        "malformed-message",
    ),
    "credit for nothing": (
        cbor2.dumps({"type": "credit", "id": 0, "bytes": (1 << 53) - 1}),
        "",
    ),
}


@pytest.mark.parametrize(("body", "reason"), FRAMES.values(), ids=FRAMES)
def test_a_bad_frame_ends_its_session(victim: Victim, body: bytes, reason: str):
    """With a fault that says why, unless it concerns a request that is over."""
    with victim.native() as peer:
        peer.frame(body)
        if not reason:
            peer.tell(type="request", id=0, method="ping", params={})
            assert peer.answer(0)["type"] == "reply"
            return
        fault = peer.fault()
        assert fault["reason"].startswith(reason), fault
        assert fault["message"]


@pytest.mark.parametrize("size", [0, (1 << 20) + 1, 1 << 31, (1 << 32) - 1])
def test_a_frame_of_impossible_size_is_refused_at_once(victim: Victim, size: int):
    """Before a byte of it has come."""
    with victim.native() as peer:
        peer.send(struct.pack(">I", size))
        assert peer.fault()["reason"] == "frame-size"


def test_another_version_is_refused(victim: Victim):
    """Newer, older, turned round, or no number at all."""
    for versions in ([2, 9], [0, 0], [9, 1], [], [1], ["1", "1"], None):
        with RawNative(victim.daemon.connect_native()) as peer:
            assert peer.message() is not None
            peer.tell(type="hello", versions=versions)
            assert peer.fault()["reason"] in {"unsupported-version", "malformed-message"}


def test_a_guix_client_at_the_native_socket_is_told(victim: Victim):
    """Its first word is a frame of a size that cannot be."""
    with RawNative(victim.daemon.connect_native()) as peer:
        peer.send(struct.pack("<Q", 0x6E697863))
        assert peer.message() is not None
        assert peer.fault()["reason"] == "frame-size"


def test_a_session_may_end_within_each_frame(victim: Victim):
    """Requests that are cut short are not begun."""
    params = {"name": "cut-short", "text": "x" * 50, "references": [victim.item]}
    body = cbor2.dumps({"type": "request", "id": 0, "method": "add-text", "params": params})
    whole = struct.pack(">I", len(body)) + body
    for size in range(0, len(whole), 5):
        with victim.native() as peer:
            peer.send(whole[:size])
    assert not [path for path in victim.bystander.all_valid_paths() if "cut-short" in path]


def test_a_text_that_goes_on_is_refused(victim: Victim):
    """At the limit for texts, and what was kept of it is given back."""
    with victim.native() as peer:
        peer.tell(type="request", id=0, method="add-text", params={"name": "n", "references": []})
        for _ in range(140):
            peer.tell(type="chunk", id=0, data=bytes(1 << 19))
        answer = peer.answer(0)
    assert answer["reason"] == "too-large", answer


def test_many_requests_at_once_are_bounded(victim: Victim):
    """Requests that wait for their bodies count as in flight."""
    with victim.native() as peer:
        for number in range(1_000):
            params = {"name": "waiting", "references": []}
            peer.tell(type="request", id=number, method="add-text", params=params)
        assert peer.fault()["reason"] == "too-many-requests"


def test_a_client_that_reads_nothing_delays_itself_only(victim: Victim):
    """Its requests are not taken any more; the bystander's are."""
    with victim.native() as peer:
        peer.sock.settimeout(0.5)
        request = {"method": "path-info", "params": {"path": victim.item}}
        bodies = [cbor2.dumps({"type": "request", "id": i, **request}) for i in range(20_000)]
        frames = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
        with pytest.raises(OSError, match=r"timed out|Broken pipe|reset"):
            peer.sock.sendall(frames)
        assert victim.bystander.is_valid(victim.item)
