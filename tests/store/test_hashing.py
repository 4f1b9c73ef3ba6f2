# SPDX-License-Identifier: GPL-3.0-or-later
"""Hashing in threads."""

import hashlib
import threading

import pytest

from store.hashes import HashAlgorithm, new_hasher
from store.hashing import BLOCKS, ArchivedFileHasher, BackgroundHasher, Block, archived_file

BLOCK = bytes(range(256)) * 1024


@pytest.mark.parametrize("blocks", [0, 1, 3, 4, 5, 40])
def test_the_hash_is_the_same_with_a_thread(blocks: int):
    """Whether or not there was one, and though the buffer is reused."""
    hasher = BackgroundHasher(new_hasher(HashAlgorithm.SHA1))
    expected = hashlib.sha1()
    buffer = bytearray(BLOCK)
    for number in range(blocks):
        buffer[0] = number
        expected.update(buffer)
        hasher.update(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
        buffer[:] = BLOCK
    assert hasher.digest() == expected.digest()
    assert threading.active_count() == 1 or all(
        thread.name != "hasher" for thread in threading.enumerate()
    )


class Sluggish:
    """A hasher that looks at bytes later than others would."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha1()
        self._never = threading.Event()

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Hash some more bytes."""
        self._never.wait(0.001)
        self._hasher.update(data)

    def digest(self) -> bytes:
        """Return the hash."""
        return self._hasher.digest()

    def copy(self) -> "Sluggish":
        """Nobody asks for one here."""
        raise NotImplementedError


@pytest.mark.parametrize("sizes", [(1, 1), (1, 200_000), (200_000, 200_000)])
def test_blocks_may_be_filled_again_in_turn(sizes: tuple[int, int]):
    """However few bytes come at a time, and however slow the hasher is."""
    hasher, expected = BackgroundHasher(Sluggish()), hashlib.sha1()
    for _ in range(4):
        hasher.update(BLOCK)
        expected.update(BLOCK)
    blocks = [Block(200_000) for _ in range(BLOCKS)]
    for number in range(5 * BLOCKS):
        block, size = blocks[number % BLOCKS], sizes[number % 2]
        block[:] = bytes([number % 256]) * len(block)
        expected.update(block[:size])
        hasher.update(memoryview(block)[:size])
    assert hasher.digest() == expected.digest()


def test_closing_ends_the_thread_in_the_middle():
    """As when a client is gone."""
    hasher = BackgroundHasher(new_hasher(HashAlgorithm.SHA256))
    for _ in range(20):
        hasher.update(BLOCK)
    hasher.close()
    hasher.close()
    assert all(thread.name != "hasher" for thread in threading.enumerate())


@pytest.mark.parametrize("executable", [False, True])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 5_000_000])
def test_a_file_is_hashed_as_its_archive(size: int, *, executable: bool):
    """From its contents alone."""
    content = (BLOCK * (size // len(BLOCK) + 1))[:size]
    hasher = ArchivedFileHasher(size, executable=executable)
    for start in range(0, size, 300_000):
        hasher.update(memoryview(content)[start : start + 300_000])
    archive = archived_file(content, executable=executable)
    assert hasher.nar_size == len(archive)
    assert hasher.digest().value == hashlib.sha256(archive).digest()
