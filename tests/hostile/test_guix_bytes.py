# SPDX-License-Identifier: GPL-3.0-or-later
"""A Guix client that keeps to no rule: each fault has a name, and is its own session's only."""

import os
from pathlib import Path

import pytest

from tests.hostile.conftest import Victim
from tests.hostile.peers import CLIENT_MAGIC, ERROR, RawGuix, string, strings, u64

HUGE = (1 << 64) - 1
LENGTHS = (HUGE, HUGE - 6, 1 << 63, (1 << 63) - 1, 1 << 40, 1 << 32, 1 << 31)
ADD, ADD_TEXT, BUILD, SET_OPTIONS = 7, 8, 9, 19
WITH_A_PATH = (1, 3, 4, 5, 6, 10, 11, 12, 16, 18, 21, 22, 26, 28, 29, 33)
WITH_PATHS = (9, 25, 30, 31, 32)


# The handshake


def test_another_magic_is_not_answered(victim: Victim):
    """A peer of another protocol could not read an answer."""
    for first in (0, CLIENT_MAGIC + 1, 0x20544547, HUGE):
        with RawGuix(victim.daemon.connect_guix()) as peer:
            peer.send(u64(first, 0x164, 0, 1))
            peer.finish_sending()
            assert peer.rest() == b""


@pytest.mark.parametrize("version", [0, 0x64, 0x264, 0xFFFF, 0x10164, 1 << 31, HUGE])
def test_another_version_is_refused_by_its_number(victim: Victim, version: int):
    """The client is told, and let go."""
    with RawGuix(victim.daemon.connect_guix()) as peer:
        peer.send(u64(CLIENT_MAGIC, version, 0, 1))
        assert peer.receive(16) == u64(0x6478696F, 0x164)
        assert peer.number() == ERROR
        peer.finish_sending()
        text = peer.rest()
        assert b"version" in text or b"does not fit" in text


def test_a_handshake_may_end_anywhere(victim: Victim):
    """At each byte of it."""
    whole = u64(CLIENT_MAGIC, 0x164, 1, 7, 1)
    for size in range(len(whole)):
        with RawGuix(victim.daemon.connect_guix()) as peer:
            peer.send(whole[:size])


# Requests


@pytest.mark.parametrize("code", [0, 2, 15, 17, 36, 79, 82, 255, 1 << 31, 1 << 32, HUGE])
def test_an_unknown_operation_is_named(victim: Victim, code: int):
    """By its number; the connection ends, since nobody knows where the next one begins."""
    with victim.guix() as peer:
        peer.send(u64(code) + strings("x", "y"))
        text = peer.error()
        assert f"invalid operation {code}" in text or "operation: " in text
        assert peer.is_closed()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("code", [*WITH_A_PATH, ADD, ADD_TEXT])
def test_an_impossible_length_is_refused_at_once(victim: Victim, code: int, length: int):
    """Nothing is allocated, and nothing waited for; the field is named."""
    with victim.guix() as peer:
        peer.send(u64(code, length))
        text = peer.error()
        assert "too long" in text or "does not fit" in text
        assert "path" in text or "name" in text or "hash_part" in text
        assert peer.is_closed()


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("code", WITH_PATHS)
def test_an_impossible_count_is_refused_at_once(victim: Victim, code: int, count: int):
    """The same for lists."""
    with victim.guix() as peer:
        peer.send(u64(code, count))
        text = peer.error()
        assert "paths" in text
        assert "too many" in text or "does not fit" in text
        assert peer.is_closed()


@pytest.mark.parametrize("length", LENGTHS)
def test_later_fields_are_bounded_too(victim: Victim, length: int):
    """A text, its references, the items of a list, the settings."""
    for start, field in [
        (u64(ADD_TEXT) + string("n"), "text"),
        (u64(ADD_TEXT) + strings("n", "text"), "references"),
        (u64(ADD_TEXT) + strings("n", "text") + u64(1), "references"),
        (u64(BUILD, 1), "paths"),
        (u64(ADD) + string("n") + u64(1, 1), "algorithm"),
        (u64(SET_OPTIONS, *[0] * 9), "settings"),
        (u64(SET_OPTIONS, *[0] * 9, 1), "settings"),
    ]:
        with victim.guix() as peer:
            peer.send(start + u64(length))
            text = peer.error()
            assert field in text, text
            assert peer.is_closed()


def test_a_list_that_goes_on_is_not_gathered_for_ever(victim: Victim):
    """A request as a whole has a limit; the memory for it is given back."""
    item = string(b"/" + b"x" * 4000)
    with victim.guix() as peer:
        peer.send(u64(31, 100_000))
        for _ in range(40_000):
            peer.send(item)
        text = peer.error()
    assert "paths" in text
    assert "bytes in all" in text


def test_padding_must_be_zero(victim: Victim):
    """One message has one form."""
    with victim.guix() as peer:
        peer.send(u64(1, 1) + b"x\0\0\0\0\0\0!")
        assert "padding" in peer.error()
        assert peer.is_closed()


@pytest.mark.parametrize("code", [4, 5, 6, 10, 11, 18, 22, 26, 28, 33])
def test_a_path_outside_the_store_fails_its_request_only(victim: Victim, code: int):
    """Whatever is asked of it, with dots or without."""
    store = victim.daemon.store
    with victim.guix() as peer:
        for path in (
            "/etc/passwd",
            "",
            "x",
            store,
            f"{store}/",
            f"{store}/..",
            f"{store}/../etc/passwd",
            f"{victim.item}/../../etc/passwd",
            f"{store}//{os.path.basename(victim.item)}",
        ):
            peer.send(u64(code) + string(path))
            text = peer.error()
            assert "is not in the store" in text
        assert peer.is_served(victim.item)


@pytest.mark.parametrize("code", [4, 5, 10, 18, 22, 26, 28])
def test_a_path_of_another_form_fails_its_request_only(victim: Victim, code: int):
    """Of another alphabet, too short, too long, or with characters that no name has."""
    store = victim.daemon.store
    with victim.guix() as peer:
        for name in (
            f"{'e' * 32}-x",
            f"{'0' * 31}-x",
            f"{'0' * 32}-{'x' * 300}",
            f"{'0' * 32}-x\ny",
            f"{'0' * 32}-é",
            f"{'0' * 32}-.x",
        ):
            peer.send(u64(code) + string(f"{store}/{name}"))
            text = peer.error()
            assert "path" in text or "name" in text, text
            assert "internal" not in text
        assert peer.is_served(victim.item)


def test_a_temporary_root_may_be_any_entry_of_the_store(victim: Victim):
    """But an entry it must be."""
    store = victim.daemon.store
    with victim.guix() as peer:
        peer.send(u64(11) + string(f"{store}/guix-file.tmp"))
        assert peer.outcome() == ""
        assert peer.number() == 1
        for name in ("..", ".", "", "x/y", "x\0y"):
            peer.send(u64(11) + string(f"{store}/{name}"))
            assert peer.error()
        assert peer.is_served(victim.item)


def test_bytes_that_are_no_text_fail_their_request_only(victim: Victim):
    """NUL and invalid UTF-8 in a path, a name, a reference."""
    with victim.guix() as peer:
        for bad in (b"\xff\xfe", b"x\0y", b"\xed\xa0\x80"):
            for request in (
                u64(4) + string(victim.daemon.store.encode() + b"/" + bad),
                u64(ADD_TEXT) + strings(bad, "t") + u64(0),
                u64(ADD_TEXT) + strings("n", "t") + u64(1) + string(bad),
                u64(BUILD, 1) + string(bad) + u64(0),
            ):
                peer.send(request)
                text = peer.error()
                assert "internal" not in text, (request, text)
        assert peer.is_served(victim.item)


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "../x", "a b", "é", "x" * 300, "a\n"])
def test_a_name_that_is_none_is_refused(victim: Victim, name: str):
    """For texts and for archives, whose end is found nevertheless."""
    archive = strings("nix-archive-1", "(", "type", "regular", "contents", "x", ")")
    with victim.guix() as peer:
        peer.send(u64(ADD_TEXT) + strings(name, "text") + u64(0))
        assert "name" in peer.error()
        peer.send(u64(ADD) + string(name) + u64(1, 1) + string("sha256") + archive)
        assert "name" in peer.error()
        assert peer.is_served(victim.item)


def test_references_must_be_valid(victim: Victim):
    """A text cannot refer to what is not there, nor to what is outside."""
    store = victim.daemon.store
    with victim.guix() as peer:
        for reference in (f"{store}/{'0' * 32}-x", "/etc/passwd", f"{store}/../x"):
            peer.send(u64(ADD_TEXT) + strings("dangling", "t") + u64(1) + string(reference))
            assert "path" in peer.error()
        assert peer.is_served(victim.item)


def test_derivations_are_checked(victim: Victim):
    """Junk, outputs somewhere else, inputs that are not there, and nesting without end."""
    out = f"{victim.daemon.store}/{'0' * 32}-forged"
    shape = 'Derive([("out","%s","","")],[%s],[],"x86_64-linux","/bin/sh",[],[("out","%s")])'
    missing = f'("{victim.daemon.store}/{"1" * 32}-m.drv",["out"])'
    faults = {
        "": "derivation",
        "junk": "derivation",
        "Derive(" * 100_000: "derivation",
        "Derive([" + "(" * 100_000: "derivation",
        'Derive([("out","/etc","","")],[],[],"s","b",[],[])': "path",
        shape % (out, "", out): "output",
        shape % (out, "", out) + "x": "derivation",
        shape % (out, missing, out): "derivation",
        shape % (victim.item, "", victim.item): "output",
        (shape % (out, "", out))[:-1]: "derivation",
        'Derive([("out","' + "\\" * 100_001: "derivation",
    }
    with victim.guix() as peer:
        for text, word in faults.items():
            peer.send(u64(ADD_TEXT) + strings("forged.drv", text) + u64(0))
            error = peer.error()
            assert word in error, (text[:80], error)
            assert "internal" not in error
        assert peer.is_served(victim.item)


def test_options_take_no_nonsense(victim: Victim):
    """Numbers that are none, in settings that are applied as they come."""
    with victim.guix() as peer:
        for name, value in [
            ("build-timeout", "x"),
            ("build-cores", "-1"),
            ("build-max-jobs", "9" * 100),
            ("build-max-silent-time", ""),
            ("build-repeat", "1e9"),
        ]:
            peer.send(u64(SET_OPTIONS, *[0] * 9, 1) + strings(name, value))
            text = peer.outcome()
            assert name in text
        assert peer.is_served(victim.item)


def test_a_request_may_end_anywhere(victim: Victim):
    """At each byte of it; nothing of it is done."""
    whole = u64(ADD_TEXT) + strings("cut-short", "some text") + u64(1) + string(victim.item)
    for size in range(0, len(whole), 3):
        with victim.guix() as peer:
            peer.send(whole[:size])
    with victim.guix() as peer:
        peer.send(whole)
        assert peer.number()
    assert not [name for name in os.listdir(victim.daemon.store) if name.endswith(".lock")]


def test_a_client_that_sends_a_byte_at_a_time_is_served_like_others(victim: Victim):
    """It waits for nobody, and nobody for it."""
    with victim.guix() as peer, victim.guix() as other:
        for byte in u64(1) + string(victim.item):
            peer.send(bytes([byte]))
            assert other.is_served(victim.item)
        assert [peer.number(), peer.number()] == [0x616C7473, 1]


def test_a_client_that_does_not_read_delays_itself_only(victim: Victim):
    """Its answers fill its socket; then no more requests are taken from it."""
    with victim.guix() as peer:
        peer.sock.settimeout(0.5)
        requests = (u64(26) + string(victim.item)) * 20_000
        with pytest.raises(TimeoutError):
            peer.sock.sendall(requests)
        assert victim.bystander.is_valid(victim.item)


def test_many_that_hold_on_at_every_stage_stop_nobody(victim: Victim):
    """A hundred connections that go no further: new clients are served at once."""
    held = [RawGuix(victim.daemon.connect_guix()) for _ in range(100)]
    try:
        for number, peer in enumerate(held):
            peer.send((u64(CLIENT_MAGIC, 0x164, 0, 1) + u64(7, 1))[: number % 49])
        with victim.guix() as peer:
            assert peer.is_served(victim.item)
    finally:
        for peer in held:
            peer.sock.close()


def test_nothing_is_registered_for_nothing(victim: Victim):
    """What the tests before this one were refused is not in the store."""
    known = {"bystander", "cut-short"}
    there = {Path(path).name[33:] for path in victim.bystander.all_valid_paths()}
    assert there <= known
