# SPDX-License-Identifier: GPL-3.0-or-later
"""What surrounds the archive of an exported item; pure.

Behind the archive come the magic number, the item's path, its references and
its deriver, each as a string of the worker protocol: a length, the bytes, zeros
up to a multiple of 8. A signature covers all of that, from the archive's first
byte to the deriver's last. Then the number 1 and the signature, or 0.
"""

from dataclasses import dataclass
from typing import Final

from store.errors import StoreError
from store.paths import StorePath

MAGIC: Final = 0x4558494E

MAX_STRING: Final = 4096
"""Bytes of a path, which is the kernel's own bound."""

MAX_SIGNATURE: Final = 1 << 16
"""Bytes of a signature; one by the longest RSA key has about 5,000."""

MAX_REFERENCES: Final = 1 << 17
"""References of one item; what is known of them is in memory at once."""


class ExportError(StoreError):
    """Bytes that are no export, or an item that cannot be exported."""

    default_reason = "invalid-export"


def encode_number(value: int) -> bytes:
    """Write an integer."""
    return value.to_bytes(8, "little")


def encode_string(value: bytes) -> bytes:
    """Write a string."""
    return encode_number(len(value)) + value + bytes(-len(value) % 8)


NEXT: Final = encode_number(1)
"""Announces an item."""

END: Final = encode_number(0)
"""Ends a stream of items."""


@dataclass(frozen=True, slots=True)
class Trailer:
    """What follows an item's archive and is signed with it.

    Attributes:
        path: The item.
        references: What it refers to.
        deriver: The derivation that made it, where one is known.
    """

    path: StorePath
    references: frozenset[StorePath]
    deriver: StorePath | None = None

    def encode(self) -> bytes:
        """Write it, with the references sorted as the C++ daemon has them."""
        texts = [encode_string(path.encode()) for path in sorted(self.references)]
        return b"".join(
            (
                encode_number(MAGIC),
                encode_string(self.path.encode()),
                encode_number(len(texts)),
                *texts,
                encode_string((self.deriver or "").encode()),
            )
        )


def encode_signature(signature: bytes | None) -> bytes:
    """Write what follows the trailer: a signature, or that there is none."""
    return END if signature is None else NEXT + encode_string(signature)
