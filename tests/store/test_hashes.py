# SPDX-License-Identifier: GPL-3.0-or-later

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import InvalidHashError
from store.hashes import Digest, HashAlgorithm, compress, new_hasher

EMPTY_HASHES = {
    "md5": "d41d8cd98f00b204e9800998ecf8427e",
    "sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512": "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
    "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
    "sha3-256": "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a",
    "sha3-512": "a69f73cca23a9ac5c8b567dc185a756e97c982164fe25859e0d1dcc1475c80a6"
    "15b2123af1f5f94c11e3e9402c3ac558f500199d95b6d3e301758586281dcd26",
    "blake2s-256": "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9",
}


@pytest.mark.parametrize("algorithm", HashAlgorithm)
def test_every_algorithm_computes_its_hash(algorithm: HashAlgorithm):
    """Each word of the reference daemon means the algorithm it should."""
    digest = Digest.of(algorithm, b"")
    assert digest.base16 == EMPTY_HASHES[algorithm.value]
    assert len(digest.value) == algorithm.size
    assert new_hasher(algorithm).digest() == digest.value


@pytest.mark.parametrize("word", ["md7", "", "SHA256", "sha-256", "sha256 "])
def test_unknown_algorithms_are_refused(word: str):
    """The message names the word."""
    with pytest.raises(InvalidHashError, match=f"unknown hash type `{word}'"):
        HashAlgorithm.parse(word)


@given(st.sampled_from(HashAlgorithm), st.binary(max_size=30))
def test_every_spelling_is_read_back(algorithm: HashAlgorithm, data: bytes):
    """Base 16 and base 32 are told apart by their lengths."""
    digest = Digest.of(algorithm, data)
    assert Digest.parse(algorithm, digest.base16) == digest
    assert Digest.parse(algorithm, digest.base32) == digest
    assert Digest.parse(algorithm, digest.base16.upper()) == digest
    assert Digest.parse_prefixed(str(digest)) == digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "hash `' has wrong length for hash type `sha256'"),
        ("ab" * 31, "wrong length"),
        ("zz" * 32, "invalid hash"),
        ("ab " * 21 + "a", "invalid hash"),
        ("e" * 52, "invalid base-32 hash"),
        ("z" * 52, "invalid base-32 hash"),
    ],
)
def test_text_that_is_no_hash_is_refused(text: str, message: str):
    """Wrong length, foreign digits, blanks between digits and stray bits are each an error."""
    with pytest.raises(InvalidHashError, match=message):
        Digest.parse(HashAlgorithm.SHA256, text)


def test_a_derivations_hash_must_be_base_16():
    """The message has the reference daemon's words."""
    digest = Digest.of(HashAlgorithm.SHA256, b"")
    with pytest.raises(InvalidHashError, match=r"\(26 bytes but expected 32\)"):
        Digest.parse_base16(HashAlgorithm.SHA256, digest.base32)


@pytest.mark.parametrize("text", ["", "sha256", "sha256:", "md7:00", ":00", "sha256:00"])
def test_a_corrupt_hash_column_is_refused(text: str):
    """What the database holds is checked like everything else."""
    with pytest.raises(InvalidHashError):
        Digest.parse_prefixed(text)


def test_a_digest_has_the_size_of_its_algorithm():
    """A value of another size cannot pass for a hash."""
    with pytest.raises(InvalidHashError, match="has 32 bytes, not 20"):
        Digest(HashAlgorithm.SHA256, bytes(20))


@given(st.binary(min_size=1, max_size=64), st.integers(1, 40))
def test_compression_folds_bytes_by_exclusive_or(value: bytes, size: int):
    """Byte i of the value ends up in byte i modulo the size."""
    expected = bytearray(size)
    for index, byte in enumerate(value):
        expected[index % size] ^= byte
    assert compress(value, size) == bytes(expected)


def test_hashers_can_be_copied():
    """A copy goes on alone, which is how a hash is known before a stream ends."""
    hasher = new_hasher(HashAlgorithm.SHA256)
    hasher.update(b"a")
    copy = hasher.copy()
    hasher.update(memoryview(b"b"))
    assert copy.digest() == hashlib.sha256(b"a").digest()
    assert hasher.digest() == hashlib.sha256(b"ab").digest()
