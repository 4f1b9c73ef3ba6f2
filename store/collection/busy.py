# SPDX-License-Identifier: GPL-3.0-or-later
"""Items that running processes use, as far as `/proc` tells; for a thread.

Looked at are each process's program, working directory, open files, mapped
files and environment. What a process says of itself there can be a lie, which
keeps an item that could go, and never the other way round. A name counts by
its hash part alone, so that whatever follows it in a text hides nothing.
Entry point: `busy_hash_parts`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress

from store.paths import HASH_PART_LENGTH

_PIECE = 1 << 16
_PROC = "/proc"


def busy_hash_parts(store: str, proc: str = _PROC) -> Iterator[set[str]]:
    """Yield the hash parts of items that each process uses, process by process.

    A process that ends meanwhile, or that we may not look at, is passed over.

    Args:
        store: The store directory.
        proc: Where the kernel describes processes.
    """
    names = re.compile(re.escape(os.fsencode(store)) + rb"/+([0-9a-z]{%d})-" % HASH_PART_LENGTH)
    # A name that two pieces share is within this much of the end of the first.
    overlap = len(os.fsencode(store)) + HASH_PART_LENGTH + 64
    for entry in os.listdir(proc):
        if entry.isdigit():
            found: set[str] = set()
            for text in _texts(f"{proc}/{entry}", overlap):
                found.update(match.decode("ascii") for match in names.findall(text))
            yield found


def _texts(process: str, overlap: int) -> Iterator[bytes]:
    links = [f"{process}/exe", f"{process}/cwd", f"{process}/root"]
    with suppress(OSError):
        links += [f"{process}/fd/{name}" for name in os.listdir(f"{process}/fd")]
    for link in links:
        with suppress(OSError):
            yield os.fsencode(os.readlink(link))
    for name in ("maps", "environ"):
        with suppress(OSError), open(f"{process}/{name}", "rb", buffering=0) as file:
            rest = b""
            while piece := file.read(_PIECE):
                text = rest + piece
                yield text
                rest = text[-overlap:]
