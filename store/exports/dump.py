# SPDX-License-Identifier: GPL-3.0-or-later
"""An item on its way out: its archive in chunks, hashed as it goes, then what follows it.

One pass over the item makes both its bytes and its hash, and at most a chunk is
in memory. Entry point: `ItemDump`.
"""

from hashlib import sha256

from store.errors import StoreError
from store.exports.format import Trailer
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.nar.dump import dump

CHUNK = 1 << 18
"""Bytes of a chunk: so many cost more to hash than to hand over."""

# What old stores say of an item whose hash nobody knows.
_UNKNOWN = bytes(HashAlgorithm.SHA256.size)


class ItemDump:
    """Reads one item of the store.

    Args:
        store_fd: The store's directory.
        info: What is registered of the item.
    """

    def __init__(self, store_fd: int, info: PathInfo) -> None:
        self._info = info
        self._name = info.path.rpartition("/")[2]
        self._pieces = dump(store_fd, self._name)
        self._hasher = sha256()
        self._gathered = bytearray()

    def next_chunk(self) -> bytes | None:
        """Read one more chunk, in any thread; None when less than a chunk is left.

        Raises:
            FileError: The item cannot be read.
        """
        while len(self._gathered) < CHUNK:
            piece = next(self._pieces, None)
            if piece is None:
                return None
            self._hasher.update(piece)
            self._gathered += piece
        chunk = bytes(self._gathered)
        self._gathered.clear()
        return chunk

    def finish(self) -> tuple[bytes, Digest]:
        """Give the rest of the archive with the trailer, and the hash to be signed.

        Raises:
            StoreError: The item is no longer what it was when it was registered
                (reason ``damaged``), so that nobody else should get it.
        """
        self._check()
        trailer = Trailer(self._info.path, self._info.references, self._info.deriver).encode()
        self._hasher.update(trailer)
        rest = bytes(self._gathered) + trailer
        return rest, Digest(HashAlgorithm.SHA256, self._hasher.digest())

    def _check(self) -> None:
        registered = self._info.nar_hash
        found = self._hasher.hexdigest()
        if registered.base16 != found and registered.value != _UNKNOWN:
            raise StoreError(
                f"hash of path `{self._info.path}' has changed"
                f" from `{registered.base16}' to `{found}'!",
                reason="damaged",
            )

    def close(self) -> None:
        """Close what is open; does no harm a second time."""
        self._pieces.close()
