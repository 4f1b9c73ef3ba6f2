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
# Pieces of a body that may wait for the thread: what bounds its memory.
_PENDING = 4


class BackgroundHasher:
    """A hasher that moves to a thread once it has much to do.

    Args:
        hasher: Does the hashing; not to be used by others until `digest`.
    """

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._size = 0
        self._queue: queue.Queue[bytes | None] = queue.Queue(_PENDING)
        self._thread: threading.Thread | None = None

    def update(self, data: bytes | memoryview) -> None:
        """Hash some more bytes; they may be overwritten after the call."""
        self._size += len(data)
        if self._size < _THREADED_BYTES:
            self._hasher.update(data)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hasher", daemon=True)
            self._thread.start()
        self._queue.put(bytes(data))

    def digest(self) -> bytes:
        """Return the hash of all bytes, after which no more can come."""
        self.close()
        return self._hasher.digest()

    def close(self) -> None:
        """End the thread; does no harm a second time."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._hasher.update(data)


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
        """Hash some more of the contents; they may be overwritten after the call."""
        self._hasher.update(data)

    def digest(self) -> Digest:
        """Return the hash, after which no more contents can come."""
        self._hasher.update(self._tail)
        return Digest(HashAlgorithm.SHA256, self._hasher.digest())

    def close(self) -> None:
        """End the thread; does no harm a second time."""
        self._hasher.close()
