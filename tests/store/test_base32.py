# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import base32
from store.errors import InvalidHashError


def reference_encode(data: bytes) -> str:
    """Encode bit by bit, as the format is defined: digit n holds the bits from 5n on."""
    bits = [byte >> bit & 1 for byte in data for bit in range(8)]
    digits = [
        sum(bit << place for place, bit in enumerate(bits[start : start + 5]))
        for start in range(0, len(bits), 5)
    ]
    return "".join(base32.ALPHABET[digit] for digit in reversed(digits))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\0", "00"),
        (b"\x01", "01"),
        (b"\xff", "7z"),
        (
            # The sha256 of nothing.
            bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
        ),
    ],
)
def test_known_values(data: bytes, text: str):
    """Digits and their order are those of the store, not of RFC 4648."""
    assert base32.encode(data) == text
    assert base32.decode(text) == data


@given(st.binary(max_size=70))
def test_encoding_follows_the_definition(data: bytes):
    """The fast encoder agrees with one written from the definition, for every length."""
    text = base32.encode(data)
    assert text == reference_encode(data)
    assert len(text) == base32.encoded_length(len(data))
    assert base32.decode(text) == data


@given(st.text(alphabet=base32.ALPHABET, max_size=60))
def test_what_decodes_is_what_would_be_encoded(text: str):
    """No two texts stand for the same bytes."""
    try:
        data = base32.decode(text)
    except InvalidHashError:
        return
    assert base32.encode(data) == text


@pytest.mark.parametrize("text", ["0e", "0E", "0 ", "_0", "+1", "0\n", "é0", "0t", "o0", "u0"])
def test_foreign_digits_are_refused(text: str):
    """Letters outside the alphabet do not pass, nor what Python's int would read."""
    with pytest.raises(InvalidHashError) as caught:
        base32.decode(text)
    assert caught.value.reason == "invalid-hash"


@pytest.mark.parametrize("text", ["0", "000", "000000"])
def test_lengths_that_no_bytes_have_are_refused(text: str):
    """A digit too many is not dropped silently."""
    with pytest.raises(InvalidHashError):
        base32.decode(text)


@pytest.mark.parametrize("text", ["80", "zz", "g000"])
def test_bits_beyond_the_last_byte_are_refused(text: str):
    """The unused bits of the first digit must be zero."""
    with pytest.raises(InvalidHashError, match="beyond its last byte"):
        base32.decode(text)
