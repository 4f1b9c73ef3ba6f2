# SPDX-License-Identifier: GPL-3.0-or-later
"""Hash algorithms and digests, with the names and spellings the store uses.

An algorithm is a `HashAlgorithm`, never a bare word; what a hash came to is a
`Digest`, which knows its algorithm. Both refuse text they cannot mean.
"""

import hashlib
from binascii import unhexlify
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from store import base32
from store.errors import InvalidHashError


class Hasher(Protocol):
    """What `new_hasher` returns: the part of hashlib's objects that the store uses."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Hash some more bytes."""

    def digest(self) -> bytes:
        """Return the hash of all bytes so far."""
        ...

    def copy(self) -> Self:
        """Return a hasher that goes on from here on its own."""
        ...


class HashAlgorithm(StrEnum):
    """The algorithms of the reference daemon, by the words it uses for them."""

    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA512 = "sha512"
    SHA3_256 = "sha3-256"
    SHA3_512 = "sha3-512"
    BLAKE2S_256 = "blake2s-256"

    @classmethod
    def parse(cls, text: str) -> "HashAlgorithm":
        """Return the algorithm of that name.

        Raises:
            InvalidHashError: There is none.
        """
        algorithm = _ALGORITHMS.get(text)
        if algorithm is None:
            raise InvalidHashError(f"unknown hash type `{text}'")
        return algorithm

    @property
    def size(self) -> int:
        """The bytes of a digest."""
        return _SIZES[self]


_ALGORITHMS = {str(algorithm): algorithm for algorithm in HashAlgorithm}
_SIZES = {
    HashAlgorithm.MD5: 16,
    HashAlgorithm.SHA1: 20,
    HashAlgorithm.SHA256: 32,
    HashAlgorithm.SHA512: 64,
    HashAlgorithm.SHA3_256: 32,
    HashAlgorithm.SHA3_512: 64,
    HashAlgorithm.BLAKE2S_256: 32,
}

_CONSTRUCTORS: dict[HashAlgorithm, Callable[..., Hasher]] = {
    HashAlgorithm.MD5: hashlib.md5,
    HashAlgorithm.SHA1: hashlib.sha1,
    HashAlgorithm.SHA256: hashlib.sha256,
    HashAlgorithm.SHA512: hashlib.sha512,
    HashAlgorithm.SHA3_256: hashlib.sha3_256,
    HashAlgorithm.SHA3_512: hashlib.sha3_512,
    HashAlgorithm.BLAKE2S_256: hashlib.blake2s,
}


def new_hasher(algorithm: HashAlgorithm) -> Hasher:
    """Return a hasher without input; `update` with more than 2 KiB releases the GIL."""
    # A FIPS build of OpenSSL refuses md5 and sha1 unless told that no security hangs on them.
    return _CONSTRUCTORS[algorithm](usedforsecurity=False)


def compress(value: bytes, size: int) -> bytes:
    """Fold a digest to `size` bytes by exclusive or, as the hash part of store paths needs it."""
    folded = 0
    for start in range(0, len(value), size):
        folded ^= int.from_bytes(value[start : start + size], "little")
    return folded.to_bytes(size, "little")


@dataclass(frozen=True, slots=True)
class Digest:
    """What some bytes hashed to.

    Attributes:
        algorithm: The algorithm that did it.
        value: Exactly ``algorithm.size`` bytes.

    Raises:
        InvalidHashError: The value has another size.
    """

    algorithm: HashAlgorithm
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != _SIZES[self.algorithm]:
            raise InvalidHashError(
                f"a {self.algorithm} hash has {self.algorithm.size} bytes, not {len(self.value)}"
            )

    @classmethod
    def of(cls, algorithm: HashAlgorithm, data: bytes | bytearray | memoryview) -> "Digest":
        """Hash bytes that are at hand."""
        hasher = new_hasher(algorithm)
        hasher.update(data)
        return cls(algorithm, hasher.digest())

    @classmethod
    def parse(cls, algorithm: HashAlgorithm, text: str) -> "Digest":
        """Read base 16 or the store's base 32, told apart by length.

        Raises:
            InvalidHashError: The text has neither length, or a foreign digit.
        """
        if len(text) == algorithm.size * 2:
            return cls.parse_base16(algorithm, text)
        if len(text) == base32.encoded_length(algorithm.size):
            return cls(algorithm, base32.decode(text))
        raise InvalidHashError(f"hash `{text}' has wrong length for hash type `{algorithm}'")

    @classmethod
    def parse_base16(cls, algorithm: HashAlgorithm, text: str) -> "Digest":
        """Read base 16, the only spelling that derivations and the database allow.

        Raises:
            InvalidHashError: The text has another length, or a foreign digit.
        """
        if len(text) != _SIZES[algorithm] * 2:
            raise InvalidHashError(
                f"invalid {algorithm} hash '{text}' "
                f"({len(text) // 2} bytes but expected {algorithm.size})"
            )
        try:
            return cls(algorithm, unhexlify(text))
        except ValueError as error:
            raise InvalidHashError(f"invalid hash `{text}'") from error

    @classmethod
    def parse_prefixed(cls, text: str) -> "Digest":
        """Read ``ALGORITHM:BASE16``, the form of the database's hash column.

        Raises:
            InvalidHashError: The text has another form.
        """
        algorithm, colon, digits = text.partition(":")
        if not colon:
            raise InvalidHashError(f"corrupt hash `{text}'")
        return cls.parse_base16(HashAlgorithm.parse(algorithm), digits)

    @property
    def base16(self) -> str:
        """Lower-case hexadecimal digits."""
        return self.value.hex()

    @property
    def base32(self) -> str:
        """Digits in the store's base 32."""
        return base32.encode(self.value)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.base16}"
