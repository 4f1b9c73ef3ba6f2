# SPDX-License-Identifier: GPL-3.0-or-later
"""The hash of a tree on disk: that of its archive, which is never in memory as a whole."""

from store.hashes import Digest, HashAlgorithm, new_hasher
from store.nar.dump import dump


def nar_hash_of(
    dirfd: int, name: str | bytes, algorithm: HashAlgorithm = HashAlgorithm.SHA256
) -> tuple[Digest, int]:
    """Hash a file, link or tree.

    Args:
        dirfd: The directory it is in.
        name: Its name there, a single component.
        algorithm: How to hash.

    Returns:
        The hash and the size, in bytes, of its archive.

    Raises:
        FileError: As `dump`.
    """
    hasher, size = new_hasher(algorithm), 0
    for piece in dump(dirfd, name):
        hasher.update(piece)
        size += len(piece)
    return Digest(algorithm, hasher.digest()), size
