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
# Waking a thread costs some microseconds, so it gets pieces that take much longer to hash.
_PIECE = 1 << 20
# A view this large is kept as it is, if its bytes cannot change; it is larger than a copy of fewer.
_KEPT = 1 << 12
# Pieces that may wait for the thread: what bounds its memory.
_PENDING = 4


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
        """Hash some more bytes; a view is copied where its bytes could change meanwhile."""
        self._size += len(data)
        if self._size < _THREADED_BYTES:
            self._hasher.update(data)
            return
        if self._worker is None:
            self._worker = _Worker(self._hasher)
        self._gathered.append(_unchanging(data))
        self._gathered_size += len(data)
        if self._gathered_size >= _PIECE:
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
    """Return bytes that stay what they are, copied where others may change them."""
    if isinstance(data, bytes) or (len(data) >= _KEPT and isinstance(data.obj, bytes)):
        return data
    return bytes(data)


class _Worker:
    """A thread that hashes what it is given, in order."""

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._pieces: queue.SimpleQueue[list[bytes | memoryview] | None] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_PENDING):
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


def archived_file(content: bytes) -> bytes:
    """Return the archive form of a file that is not executable."""
    size = len(content)
    head = nar.MAGIC.data + nar.REGULAR.data + size.to_bytes(8, "little")
    return b"".join((head, content, nar.PADDINGS[size & 7], nar.CLOSE_ROOT.data))


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
