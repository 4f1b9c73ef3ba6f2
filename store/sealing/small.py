# SPDX-License-Identifier: GPL-3.0-or-later
"""Making an output canonical that is one small file: with one look at it, and read at once.

The checks and changes are those of `store.sealing.walk`, without what large files and
trees need: archive events, threads, deduplication. Entry point: `read_canonical`.
"""

import os
import stat

from store.links import MINIMUM_SIZE
from store.metadata import Canonicaliser
from store.sealing.walk import open_file, replaced

SMALL_FILE = 4096
assert SMALL_FILE < MINIMUM_SIZE, "small files are not deduplicated"


def is_small(status: os.stat_result) -> bool:
    """Tell whether something is a small file."""
    return stat.S_ISREG(status.st_mode) and status.st_size <= SMALL_FILE


def read_canonical(
    dirfd: int, name: str, path: str, canonicaliser: Canonicaliser
) -> tuple[bytes, bool]:
    """Give canonical metadata to a small file; return what is in it, and if it is executable.

    Args:
        dirfd: The directory it is in.
        name: Its name there.
        path: What to call it in messages.
        canonicaliser: Checks its owner, and changes its metadata.

    Raises:
        FileError: It is of another owner, or no small file any more.
        OSError: It cannot be read or changed.
    """
    fd = open_file(dirfd, name)
    try:
        status = os.fstat(fd)
        if not is_small(status):
            raise replaced(path)
        if canonicaliser.claim(status, path):
            canonicaliser.settle(fd, status)
        content = os.read(fd, status.st_size)
    finally:
        os.close(fd)
    if len(content) != status.st_size:
        raise replaced(path)
    return content, bool(status.st_mode & stat.S_IXUSR)
