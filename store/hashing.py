# SPDX-License-Identifier: GPL-3.0-or-later
"""Hashing the same bytes twice at the price of once, where there are two CPUs.

What is received is hashed as it comes; a second hash of a large body is made
by a thread of its own, since hashing releases the interpreter's lock.
"""

import queue
import threading

from store.hashes import Digest, HashAlgorithm, Hasher, new_hasher
from store.nar import format as nar

# Up to here a thread would cost more than it saves.
_THREADED_BYTES = 1 << 20
# Waking a thread costs some microseconds, so it gets what takes much longer to hash, as far
# as that does not come in many pieces; and so often may it be handed some before it has
# hashed the first. That is what bounds its memory.
_BATCH = 1 << 18
_BATCH_PIECES = 2
_BATCHES = 4


class Block(bytearray):
    """Bytes to receive into, which a hasher looks at later without copying them.

    Whoever fills blocks takes `BLOCKS` of them in turn: then none is filled again before
    all hashers that were given what was in it are done with that.
    """


BLOCKS = (_BATCHES + 1) * _BATCH_PIECES + 1
"""How many blocks there are: in batches with a thread, in the next one, and being filled."""


class BackgroundHasher:
    """A hasher that moves to a thread once it has much to do.

    Args:
        hasher: Does the hashing; not to be used by others until `digest`.
    """

    __slots__ = ("_gathered", "_gathered_size", "_hasher", "_size", "_worker")

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._size = 0
        self._worker: _Worker | None = None
        self._gathered: list[bytes | memoryview] = []
        self._gathered_size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Hash some more bytes; a view is copied if it is of neither bytes nor a `Block`."""
        self._size += len(data)
        if self._size < _THREADED_BYTES:
            self._hasher.update(data)
            return
        if self._worker is None:
            self._worker = _Worker(self._hasher)
        self._gathered.append(_unchanging(data))
        self._gathered_size += len(data)
        if self._gathered_size >= _BATCH or len(self._gathered) == _BATCH_PIECES:
            self._hand_over(self._worker)

    def _hand_over(self, worker: "_Worker") -> None:
        gathered, self._gathered, self._gathered_size = self._gathered, [], 0
        worker.hash(gathered)

    def digest(self) -> bytes:
        """Return the hash of all bytes, after which no more can come."""
        if self._worker is not None:
            self._hand_over(self._worker)
        self.close()
        return self._hasher.digest()

    def copy(self) -> Hasher:
        """Return a hasher that has hashed all bytes so far, and goes on from here on its own."""
        if self._worker is not None:
            self._hand_over(self._worker)
        self.close()
        return self._hasher.copy()

    def close(self) -> None:
        """End the thread; does no harm a second time."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None


def _unchanging(data: bytes | memoryview) -> bytes | memoryview:
    """Return bytes that stay what they are until they are hashed, copied if need be."""
    if isinstance(data, bytes) or isinstance(data.obj, (bytes, Block)):
        return data
    return bytes(data)


class _Worker:
    """A thread that hashes what it is given, in order."""

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._pieces: queue.SimpleQueue[list[bytes | memoryview] | None] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_BATCHES):
            self._room.put(None)
        self._thread = threading.Thread(target=self._run, name="hasher", daemon=True)
        self._thread.start()

    def hash(self, pieces: list[bytes | memoryview]) -> None:
        """Have pieces hashed, waiting until there is room for them."""
        self._room.get()
        self._pieces.put(pieces)

    def end(self) -> None:
        """Wait until all is hashed."""
        self._pieces.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (pieces := self._pieces.get()) is not None:
            for piece in pieces:
                self._hasher.update(piece)
            self._room.put(None)


def archived_file(content: bytes, *, executable: bool = False) -> bytes:
    """Return the archive form of a file."""
    head = nar.EXECUTABLE if executable else nar.REGULAR
    size = len(content)
    return b"".join(
        (
            nar.MAGIC.data,
            head.data,
            size.to_bytes(8, "little"),
            content,
            nar.PADDINGS[size & 7],
            nar.CLOSE_ROOT.data,
        )
    )


class ArchivedFileHasher:
    """Hashes the archive form of one regular file, from its contents alone.

    Args:
        size: Of the contents, exactly.
        executable: Whether the archive says so.
    """

    def __init__(self, size: int, *, executable: bool) -> None:
        self._hasher = BackgroundHasher(new_hasher(HashAlgorithm.SHA256))
        head = nar.EXECUTABLE if executable else nar.REGULAR
        head_data = nar.MAGIC.data + head.data + size.to_bytes(8, "little")
        self._tail = nar.PADDINGS[size & 7] + nar.CLOSE_ROOT.data
        self._hasher.update(head_data)
        self.nar_size = len(head_data) + size + len(self._tail)

    def update(self, data: bytes | memoryview) -> None:
        """Hash some more of the contents, as `BackgroundHasher.update` does."""
        self._hasher.update(data)

    def digest(self) -> Digest:
        """Return the hash, after which no more contents can come."""
        self._hasher.update(self._tail)
        return Digest(HashAlgorithm.SHA256, self._hasher.digest())

    def close(self) -> None:
        """End the thread; does no harm a second time."""
        self._hasher.close()
