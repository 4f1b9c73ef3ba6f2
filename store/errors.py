# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors of the store and of everything built on it.

    StoreError                 something asked for cannot be done; the message names what was wrong
    ├── InvalidPathError       not a store path, or a name no store item may have
    ├── NotValidError          a store path, but no such item is registered
    ├── InvalidHashError       an unknown algorithm, or digits that are no hash
    ├── NarError               an archive the canonical writer would not write
    ├── DerivationError        a derivation that does not parse, or contradicts itself
    ├── FileError              a file of the store is not what it must be
    └── DatabaseError          the database is absent, of another schema, or damaged

Every error carries a `reason`: a short word for programs, which never changes
once released. Tests and clients compare reasons; people read messages.
"""

from typing import ClassVar


class StoreError(Exception):
    """Something that was asked for cannot be done.

    Args:
        message: A sentence that names what was wrong, without a final full stop.
        reason: A word for programs; the class has a default.
        status: The exit status Guix clients are told: 1, 100 (permanent build
            failure) or 101 (timeout or silence).
    """

    default_reason: ClassVar[str] = "error"

    def __init__(self, message: str, *, reason: str | None = None, status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.status = status


class InvalidPathError(StoreError):
    """Text that should name a store item, but cannot."""

    default_reason = "invalid-path"


class NotValidError(StoreError):
    """A well-formed store path that no registered item has."""

    default_reason = "not-valid"


class InvalidHashError(StoreError):
    """An unknown hash algorithm, or text that is no hash of its algorithm."""

    default_reason = "invalid-hash"


class NarError(StoreError):
    """Bytes that are no normal archive as the canonical writer writes them."""

    default_reason = "invalid-nar"


class DerivationError(StoreError):
    """A derivation that does not parse, or whose parts contradict each other."""

    default_reason = "invalid-derivation"


class FileError(StoreError):
    """A file of the store, or meant for it, that is not what it must be."""

    default_reason = "unsuitable-file"


class DatabaseError(StoreError):
    """The database is absent, has another schema, or contradicts itself."""

    default_reason = "database"
