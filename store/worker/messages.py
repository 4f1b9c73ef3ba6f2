# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon and a store worker say to each other: each request has one reply.

Beside a `SealOutputs` go three descriptors of directories: where the builder left
its outputs, a private one on the same file system, and the store. Beside the others
goes the directory that the names lie in.
"""

from dataclasses import dataclass

from locker.codec import Codec


@dataclass(frozen=True, slots=True)
class FixedContent:
    """What a fixed output must contain.

    Attributes:
        algorithm: Of the hash.
        digest: The hash.
        recursive: Whether it is that of the archive form, or of a plain file's content.
    """

    algorithm: str
    digest: bytes
    recursive: bool


@dataclass(frozen=True, slots=True)
class Output:
    """One output to be sealed: its name in the store, its path, what is known of its content."""

    name: str
    path: str
    fixed: FixedContent | None


@dataclass(frozen=True, slots=True)
class SealOutputs:
    """Check, make canonical, hash and search what a builder left.

    Attributes:
        subject: The derivation, for messages.
        outputs: Of the same build: they may share inodes.
        owner: The user that made them; None where that is the daemon's own.
        candidates: The hash parts that may occur in them.
        deduplicate: Whether their files share inodes with equal ones of the store.
    """

    subject: str
    outputs: tuple[Output, ...]
    owner: int | None
    candidates: tuple[str, ...]
    deduplicate: bool


@dataclass(frozen=True, slots=True)
class SealedOutput:
    """A sealed output; it lies in the private directory under its name.

    Attributes:
        name: Its name.
        nar_hash: sha256 of its archive form.
        nar_size: Bytes of its archive form.
        references: The candidates that occur in it.
    """

    name: str
    nar_hash: bytes
    nar_size: int
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SealedOutputs:
    """All outputs are as they must be."""

    outputs: tuple[SealedOutput, ...]


@dataclass(frozen=True, slots=True)
class HashMismatch:
    """A fixed output has other content than was stated."""

    path: str
    algorithm: str
    expected: bytes
    actual: bytes


@dataclass(frozen=True, slots=True)
class DeleteTree:
    """Delete an entry of a directory, and all below it, as far as it exists."""

    name: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """What `DeleteTree` asked for is done; `freed` is in bytes of disk."""

    freed: int


@dataclass(frozen=True, slots=True)
class HashPath:
    """Hash the archive form of an entry of a directory."""

    name: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class HashedPath:
    """The hash, and the size in bytes, of an archive form."""

    digest: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The request cannot be met.

    Attributes:
        reason: A word for programs.
        message: What was wrong.
    """

    reason: str
    message: str


Request = SealOutputs | DeleteTree | HashPath
Reply = SealedOutputs | HashMismatch | Deleted | HashedPath | Refused

CODEC = Codec(
    *(SealOutputs, DeleteTree, HashPath),
    *(SealedOutputs, HashMismatch, Deleted, HashedPath, Refused),
    descriptors={SealOutputs: 3, DeleteTree: 1, HashPath: 1},
)
