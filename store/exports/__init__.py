# SPDX-License-Identifier: GPL-3.0-or-later
"""Exported items: archives that say which item they are, what it refers to, and who vouches.

    format     the bytes around the archive of each item, and what they say
    reader     a stream of items, in pieces of any size, without I/O
    dump       an item of the store on its way out

The stream is that of the C++ daemon and of ``guix archive``: for each item the
number 1, the item's archive, its trailer, and a signature or none; then 0.
"""

from store.exports.dump import ItemDump
from store.exports.format import END, NEXT, ExportError, Trailer, encode_signature
from store.exports.reader import ArchiveBody, ExportReader, ReadItem

__all__ = [
    "END",
    "NEXT",
    "ArchiveBody",
    "ExportError",
    "ExportReader",
    "ItemDump",
    "ReadItem",
    "Trailer",
    "encode_signature",
]
