# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing the outputs of one build: from what a builder left to what can be registered.

All outputs are sealed or none is registered; an error names the first that is
not what it must be, in the words of the reference daemon. Nothing is moved
into the store here: the caller does that, by one rename each.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from store.errors import StoreError
from store.files import delete_tree
from store.hashes import Digest, HashAlgorithm, new_hasher
from store.hashing import BackgroundHasher, archived_file
from store.links import Links
from store.metadata import Canonicaliser
from store.nar.events import Content, NarEvent
from store.nar.writer import write
from store.references import ReferenceScanner, find_references
from store.sealing.copying import copy_tree
from store.sealing.foreign import copy_foreign
from store.sealing.small import is_small, read_canonical
from store.sealing.walk import SealingWalk
from store.worker.messages import FixedContent, OutputToSeal, SealedOutput, SealOutputs

# Pieces of an archive are hashed and scanned together up to so many bytes.
_GATHERED = 1 << 16


class SealError(StoreError):
    """An output is not what it must be.

    Args:
        message: In the words that clients know.
        reason: One of ``missing-output``, ``suspicious-output``, ``not-a-file``,
            ``hash-mismatch``.
        actual: For a mismatch, the hash that the output has.
    """

    default_reason = "bad-output"

    def __init__(self, message: str, *, reason: str, actual: bytes = b"") -> None:
        super().__init__(message, reason=reason)
        self.actual = actual


@dataclass(frozen=True, slots=True)
class Directories:
    """Where outputs are.

    Attributes:
        outputs: The directory that holds what the builder left.
        private: One that only we can reach, for copies, on the store's file system.
        links: The deduplicated files; None for no deduplication.
    """

    outputs: int
    private: int
    links: Links | None


def seal_outputs(request: SealOutputs, where: Directories) -> Iterator[SealedOutput]:
    """Seal each output; an error in the middle leaves the later ones alone.

    Raises:
        SealError: An output is not what it must be.
        FileError: Something in an output is not.
        OSError: The system refuses.
    """
    canonicalisers: dict[int | None, Canonicaliser] = {}
    for output in request.outputs:
        # Outputs of one owner may have hard links in common, in whichever is seen first.
        owner = canonicalisers.setdefault(output.owner, Canonicaliser(output.owner))
        yield _seal(request, output, where, owner)


def _seal(
    request: SealOutputs, output: OutputToSeal, where: Directories, owner: Canonicaliser
) -> SealedOutput:
    if output.source:
        return _seal_foreign(request, output, where)
    status = _check_top(request.derivation, output, where.outputs)
    if not output.copy:
        if is_small(status):
            return _hash_small(request, output, where.outputs, owner)
        return _hash(request, output, where.outputs, where.links, owner)
    delete_tree(where.private, output.name)
    copy_tree(
        where.outputs,
        output.name,
        where.private,
        output.name,
        output.path,
        Canonicaliser(output.owner).claim,
    )
    return _hash(request, output, where.private, where.links, Canonicaliser())


def _seal_foreign(request: SealOutputs, output: OutputToSeal, where: Directories) -> SealedOutput:
    delete_tree(where.private, output.name)
    plain = output.fixed is not None and not output.fixed.recursive
    copy_foreign(
        where.outputs,
        output.source,
        where.private,
        output.name,
        output.path,
        limit=output.limit,
        plain=plain,
    )
    return _hash(request, output, where.private, where.links, Canonicaliser())


def _check_top(derivation: str, output: OutputToSeal, outputs_fd: int) -> os.stat_result:
    """Check the output itself, before anything in it, and return its status."""
    try:
        status = os.lstat(output.name, dir_fd=outputs_fd)
    except FileNotFoundError as error:
        raise SealError(
            f"builder for `{derivation}' failed to produce output path `{output.path}'",
            reason="missing-output",
        ) from error
    # Writable for others means that somebody else can have interfered with the build.
    writable = not stat.S_ISLNK(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable or (output.owner is not None and status.st_uid != output.owner):
        raise SealError(
            f"suspicious ownership or permission on `{output.path}'; rejecting this build output",
            reason="suspicious-output",
        )
    flat = output.fixed is not None and not output.fixed.recursive
    if flat and (not stat.S_ISREG(status.st_mode) or status.st_mode & stat.S_IXUSR):
        raise SealError(
            f"output path `{output.path}' should be a non-executable regular file",
            reason="not-a-file",
        )
    return status


def _hash_small(
    request: SealOutputs, output: OutputToSeal, dirfd: int, canonicaliser: Canonicaliser
) -> SealedOutput:
    """Do what `_hash` does for an output that is one small file."""
    content, executable = read_canonical(dirfd, output.name, output.path, canonicaliser)
    archive = archived_file(content, executable=executable)
    nar_hash = sha256(archive).digest()
    fixed = output.fixed
    if fixed is not None:
        algorithm = HashAlgorithm.parse(fixed.algorithm)
        hashed = Digest.of(algorithm, archive if fixed.recursive else content)
        _require(output.path, fixed, hashed.value)
    references = find_references(content, request.candidates.split())
    return SealedOutput(output.name, nar_hash, len(archive), tuple(sorted(references)), 0)


def _hash(
    request: SealOutputs,
    output: OutputToSeal,
    dirfd: int,
    links: Links | None,
    canonicaliser: Canonicaliser,
) -> SealedOutput:
    """Walk an output once, for all there is to know of it."""
    walk = SealingWalk(canonicaliser, links)
    reading = _Reading(request.candidates.split(), output.fixed)
    try:
        reading.read(walk.events(dirfd, output.name, output.path))
        nar_hash = reading.finish(output.path)
        saved = walk.saved
        if links is not None:
            saved += _share_root(links, dirfd, output.name, nar_hash)
    finally:
        walk.close()
        reading.close()
    return SealedOutput(
        output.name, nar_hash.value, reading.size, tuple(sorted(reading.references)), saved
    )


def _share_root(links: Links, dirfd: int, name: str, nar_hash: Digest) -> int:
    if not stat.S_ISREG(os.lstat(name, dir_fd=dirfd).st_mode):
        return 0
    return links.deduplicate_tree(dirfd, name, [((), nar_hash)])


class _Reading:
    """What one pass over an archive tells: hashes, size, references."""

    def __init__(self, candidates: Sequence[str], fixed: FixedContent | None) -> None:
        self._scanner = ReferenceScanner(candidates)
        self._nar = BackgroundHasher(new_hasher(HashAlgorithm.SHA256))
        self._fixed = fixed
        self._flat: BackgroundHasher | None = None
        self._other: BackgroundHasher | None = None
        if fixed is not None:
            algorithm = HashAlgorithm.parse(fixed.algorithm)
            if not fixed.recursive:
                self._flat = BackgroundHasher(new_hasher(algorithm))
            elif algorithm is not HashAlgorithm.SHA256:
                self._other = BackgroundHasher(new_hasher(algorithm))
        self._gathered: list[bytes | memoryview] = []
        self._gathered_size = 0
        self.size = 0

    @property
    def references(self) -> frozenset[str]:
        """The candidates that occur."""
        return self._scanner.found

    def read(self, events: Iterator[NarEvent]) -> None:
        """Read a whole archive."""
        for piece in write(self._spy(events)):
            self.size += len(piece)
            self._gathered.append(piece)
            self._gathered_size += len(piece)
            if self._gathered_size >= _GATHERED:
                self._digest()
        self._digest()

    def _spy(self, events: Iterator[NarEvent]) -> Iterator[NarEvent]:
        """Pass events on, hashing contents where the hash of a file's bytes is wanted."""
        if self._flat is None:
            return events
        return self._hash_contents(events, self._flat)

    def _hash_contents(
        self, events: Iterator[NarEvent], hasher: BackgroundHasher
    ) -> Iterator[NarEvent]:
        for event in events:
            if isinstance(event, Content):
                hasher.update(_whole(event.data))
            yield event

    def _digest(self) -> None:
        pieces, self._gathered, self._gathered_size = self._gathered, [], 0
        for data in _joined(pieces):
            self._nar.update(data)
            if self._other is not None:
                self._other.update(data)
            self._scanner.feed(data)

    def finish(self, path: str) -> Digest:
        """Return the hash of the archive, if the content is as it was fixed.

        Raises:
            SealError: It is not.
        """
        nar_hash = Digest(HashAlgorithm.SHA256, self._nar.digest())
        if self._fixed is None:
            return nar_hash
        hasher = self._flat or self._other
        _require(path, self._fixed, hasher.digest() if hasher is not None else nar_hash.value)
        return nar_hash

    def close(self) -> None:
        """End all threads."""
        for hasher in (self._nar, self._flat, self._other):
            if hasher is not None:
                hasher.close()


def _require(path: str, fixed: FixedContent, actual: bytes) -> None:
    if actual != fixed.digest:
        raise SealError(
            f"hash mismatch for store item '{path}'", reason="hash-mismatch", actual=actual
        )


def _whole(piece: bytes | memoryview) -> bytes:
    """Return the bytes that a piece is a view of; a copy only where it is a part of them."""
    whole = piece.obj if isinstance(piece, memoryview) else piece
    return whole if isinstance(whole, bytes) and len(whole) == len(piece) else bytes(piece)


def _joined(pieces: list[bytes | memoryview]) -> Iterator[bytes]:
    """Join small pieces; pass large ones on."""
    small: list[bytes | memoryview] = []
    for piece in pieces:
        if len(piece) < _GATHERED:
            small.append(piece)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield _whole(piece)
    if small:
        yield b"".join(small)
