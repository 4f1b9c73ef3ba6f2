# SPDX-License-Identifier: GPL-3.0-or-later
"""What the database knows of one valid store item."""

from dataclasses import dataclass

from store.hashes import Digest
from store.paths import StorePath


@dataclass(frozen=True, slots=True)
class PathInfo:
    """The registration of one item.

    Attributes:
        path: The item.
        nar_hash: sha256 of the item's NAR form.
        nar_size: Bytes of the item's NAR form.
        references: The items whose hash parts occur in it; may hold the item itself.
        deriver: The derivation that made it, where one is known.
        registration_time: Seconds since the epoch; 0 before it is registered.
    """

    path: StorePath
    nar_hash: Digest
    nar_size: int
    references: frozenset[StorePath]
    deriver: StorePath | None = None
    registration_time: int = 0
