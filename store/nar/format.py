# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the archive format, and the fixed phrases they come in.

Every string is its length (u64, little-endian), its bytes, and zeros up to a
multiple of 8. A canonical archive has so few variable parts that all between
them is one of the phrases below; reader and writer both work phrase by phrase.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

PADDINGS: Final = tuple(bytes(-size % 8) for size in range(8))


def encode_string(data: bytes) -> bytes:
    """Return a string in the archive's form."""
    return len(data).to_bytes(8, "little") + data + PADDINGS[len(data) & 7]


@dataclass(frozen=True, slots=True)
class Phrase:
    """Some words that always come together.

    Attributes:
        words: The words.
        data: Their bytes in an archive.
    """

    words: tuple[bytes, ...]
    data: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", b"".join(map(encode_string, self.words)))

    def __add__(self, other: "Phrase") -> "Phrase":
        return Phrase(self.words + other.words)


def _phrase(*words: str) -> Phrase:
    return Phrase(tuple(word.encode() for word in words))


MAGIC: Final = _phrase("nix-archive-1")
ENTRY: Final = _phrase("entry", "(", "name")
NODE: Final = _phrase("node")

REGULAR: Final = _phrase("(", "type", "regular", "contents")
EXECUTABLE: Final = _phrase("(", "type", "regular", "executable", "", "contents")
DIRECTORY: Final = _phrase("(", "type", "directory")
SYMLINK: Final = _phrase("(", "type", "symlink", "target")

#: Ends a node that is the whole archive, and one that is an entry of a directory.
CLOSE_ROOT: Final = _phrase(")")
CLOSE_ENTRY: Final = _phrase(")", ")")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where bytes leave all the phrases that might stand there.

    Attributes:
        offset: Of the first wrong string, from the phrases' start.
        expected: The words that could stand there.
    """

    offset: int
    expected: tuple[bytes, ...]


def find_mismatch(data: bytes, phrases: Sequence[Phrase]) -> Mismatch:
    """Return where `data`, which starts none of the phrases, departs from them."""
    offset, index = 0, 0
    words: list[tuple[bytes, ...]] = [phrase.words for phrase in phrases]
    while True:
        expected = tuple(dict.fromkeys(each[index] for each in words if index < len(each)))
        found = next((word for word in expected if _starts(data, offset, word)), None)
        if found is None:
            return Mismatch(offset, expected)
        words = [each for each in words if each[index : index + 1] == (found,)]
        offset += len(encode_string(found))
        index += 1


def _starts(data: bytes, offset: int, word: bytes) -> bool:
    return data.startswith(encode_string(word), offset)
