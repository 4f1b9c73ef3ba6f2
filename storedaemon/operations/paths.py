# SPDX-License-Identifier: GPL-3.0-or-later
"""Checking the paths that clients send."""

from collections.abc import Iterable

from store.errors import InvalidPathError
from store.paths import StoreDirectory


def entry(directory: StoreDirectory, text: str) -> str:
    """Return `text`, which is spelt as an entry of the store.

    As in the reference, a name that no item can have passes: it is simply not
    valid. Whoever creates something by a path needs `StoreDirectory.parse`.

    Raises:
        InvalidPathError: It lies elsewhere.
    """
    # Stored paths are ASCII; other text could not even be handed to SQLite. A null
    # character ends a path in the file of temporary roots.
    if directory.names_entry(text) and text.isascii() and "\0" not in text:
        return text
    raise InvalidPathError(f"path `{text}' is not in the store")


def entries(directory: StoreDirectory, texts: Iterable[str]) -> list[str]:
    """Return `texts`, each of which is spelt as an entry of the store.

    Raises:
        InvalidPathError: One lies elsewhere.
    """
    return [entry(directory, text) for text in texts]
