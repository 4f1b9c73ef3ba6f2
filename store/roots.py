# SPDX-License-Identifier: GPL-3.0-or-later
"""Indirect roots: what keeps an item alive for as long as a user's link to it is there.

A collector follows each link of ``gcroots/auto`` to the user's link, and that
to the item; where the user's link is gone, it removes ours. Users' own
directories are the daemon's business, which knows users.
"""

import os
from hashlib import sha1

from store import base32
from store.errors import InvalidPathError
from store.layout import Layout

_AUTOMATIC = "auto"


def add_indirect_root(layout: Layout, path: str) -> str:
    """Make a user's link count as a root; return the link made for it.

    The user's link need not exist yet, nor point to the store. Its name is not
    followed: only a collector does that.

    Args:
        layout: Of the store.
        path: The user's link; dots and doubled slashes are taken out first.

    Raises:
        InvalidPathError: The path is not absolute, or holds a NUL.
        OSError: The link cannot be made.
    """
    if not path.startswith("/") or "\0" in path:
        raise InvalidPathError(f"not an absolute path: `{path}'")
    path = "/" + os.path.normpath(path).lstrip("/")
    # The name is the reference daemon's, so that each path has one link.
    name = base32.encode(sha1(os.fsencode(path), usedforsecurity=False).digest())
    directory = f"{layout.gc_roots}/{_AUTOMATIC}"
    os.makedirs(directory, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        draft = f"{name}.tmp-{os.getpid()}-{os.urandom(6).hex()}"
        os.symlink(path, draft, dir_fd=fd)
        try:
            os.rename(draft, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            os.unlink(draft, dir_fd=fd)
            raise
    finally:
        os.close(fd)
    return f"{directory}/{name}"
