# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon and a store worker say to each other.

A worker has one request at a time, and answers each. Files come as directory
descriptors and the names of direct entries.
"""

from dataclasses import dataclass

from locker.codec import Codec


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request could not be fulfilled.

    Attributes:
        reason: A word for programs, as in `store.errors`.
        message: A sentence for people.
        output: The name of the output that is to blame; empty for none.
        actual: For a ``hash-mismatch``, the hash found.
    """

    reason: str
    message: str
    output: str = ""
    actual: bytes = b""


@dataclass(frozen=True, slots=True)
class FixedContent:
    """What an output must contain.

    Attributes:
        algorithm: Of the hash.
        recursive: Whether it is that of the archive form, or of a file's bytes.
        digest: The hash.
    """

    algorithm: str
    recursive: bool
    digest: bytes


@dataclass(frozen=True, slots=True)
class OutputToSeal:
    """One output of a build.

    Attributes:
        name: Its name in the directory of outputs, which it gets in the store too.
        path: Its store path, for messages.
        owner: The user whom all of it must belong to; None where builders run as ourselves.
        fixed: What it must contain, if that is known beforehand.
        copy: Whether to seal a fresh copy, made in the private directory, and leave the
            original alone.
        source: The name of what to copy, where nobody has built anything: all that is
            believed of it is what hashing the copy shows. Empty for the output itself.
        limit: With a source, the bytes of its archive form, at least; no more is copied.
    """

    name: str
    path: str
    owner: int | None
    fixed: FixedContent | None
    copy: bool
    source: str = ""
    limit: int = 0


@dataclass(frozen=True, slots=True)
class SealOutputs:
    """Seal outputs: check, make canonical, hash, scan, deduplicate.

    Descriptors: the directory of outputs, the private directory, and the
    directory of deduplicated files, which is left out for no deduplication.

    Attributes:
        derivation: The store path of the derivation, for messages.
        outputs: The outputs.
        candidates: The hash parts that they may refer to, with spaces between them: as
            one text, since there may be very many.
    """

    derivation: str
    outputs: tuple[OutputToSeal, ...]
    candidates: str


@dataclass(frozen=True, slots=True)
class SealedOutput:
    """What is to be registered of an output.

    Attributes:
        name: Its name.
        nar_hash: sha256 of its archive form.
        nar_size: Bytes of its archive form.
        references: The candidates that occur in it, sorted.
        saved: Bytes of disk that deduplication freed.
    """

    name: str
    nar_hash: bytes
    nar_size: int
    references: tuple[str, ...]
    saved: int


@dataclass(frozen=True, slots=True)
class SealOutputsReply:
    """All outputs, in order; fewer where one failed."""

    outputs: tuple[SealedOutput, ...]
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class DeleteTree:
    """Delete an entry of a directory and all below it; descriptor: the directory.

    Attributes:
        name: The entry; it need not exist.
        kept_links: As in `store.files.delete_tree`.
    """

    name: str
    kept_links: int


@dataclass(frozen=True, slots=True)
class DeleteTreeReply:
    """The bytes of disk freed."""

    freed: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class HashPath:
    """Hash an entry of a directory; descriptor: the directory.

    Attributes:
        name: The entry.
        algorithm: How to hash.
        recursive: Whether to hash its archive form, or the bytes of a single file.
    """

    name: str
    algorithm: str
    recursive: bool


@dataclass(frozen=True, slots=True)
class HashPathReply:
    """The hash, and the bytes that were hashed."""

    digest: bytes
    size: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class IndexLinks:
    """Write which inodes are deduplicated; descriptors: their directory, an empty file."""


@dataclass(frozen=True, slots=True)
class IndexLinksReply:
    """How many there are."""

    inodes: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class ShareFiles:
    """Deduplicate an item; descriptors: the store, the deduplicated files, what IndexLinks wrote.

    Attributes:
        name: The item's name in the store.
    """

    name: str


@dataclass(frozen=True, slots=True)
class ShareFilesReply:
    """What came of it; up to a failure, if there was one.

    Attributes:
        files: Files that became links to others.
        size: How long these are together, in bytes.
        writable: Files left alone because they are writable, relative to the store.
        failure: Why not all was done.
    """

    files: int
    size: int
    writable: tuple[str, ...]
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class DeleteEntries:
    """Delete entries of a directory and all below them; descriptor: the directory.

    Attributes:
        names: The entries; they need not exist.
    """

    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DeleteEntriesReply:
    """What came of it: one that cannot be deleted keeps none of the others.

    Attributes:
        freed: How long the files were together that have no other name, in bytes.
        failure: Why the first of those that could not be deleted is still there.
    """

    freed: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class SweepLinks:
    """Remove deduplicated files that nothing uses; descriptor: their directory."""


@dataclass(frozen=True, slots=True)
class SweepLinksReply:
    """What came of it, as in `store.links.sweep_unused`."""

    removed: int
    freed: int
    saved: int
    failure: Failure | None


CODEC = Codec(
    SealOutputs,
    SealOutputsReply,
    DeleteTree,
    DeleteTreeReply,
    HashPath,
    HashPathReply,
    IndexLinks,
    IndexLinksReply,
    ShareFiles,
    ShareFilesReply,
    DeleteEntries,
    DeleteEntriesReply,
    SweepLinks,
    SweepLinksReply,
    descriptors={
        SealOutputs: 3,
        DeleteTree: 1,
        HashPath: 1,
        IndexLinks: 2,
        ShareFiles: 3,
        DeleteEntries: 1,
        SweepLinks: 1,
    },
)
