# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing: what a builder left becomes what may be registered.

The builder's processes are gone. Each output is first taken out of the directory
that the builder could write to, into a private one; a fixed output, which its
builder may have handed on to somebody through the network, is copied instead, so
that no descriptor of it can exist (CVE-2024-27297), to a place that no name in
the builder's directory can lead to (CVE-2026-39860). There it is made canonical,
and read once: for its hash, its size, its references, and the hashes of its
files. What is registered is what was read. Entry point: `Sealing`.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from store.errors import StoreError
from store.links import Links
from store.metadata import Canonicaliser
from store.nar.dump import walk
from store.nar.restore import Restorer
from store.placing import place
from store.reading import Reading
from store.worker.messages import FixedContent, Output, SealedOutput

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class ContentMismatchError(StoreError):
    """A fixed output has other content than was stated."""

    default_reason = "hash-mismatch"

    def __init__(self, path: str, fixed: FixedContent, actual: bytes) -> None:
        super().__init__(f"hash mismatch for store item '{path}'")
        self.path = path
        self.fixed = fixed
        self.actual = actual


@dataclass(frozen=True, slots=True)
class Places:
    """Directories, by descriptor: the builder's, a private one beside it, and `.links` or None."""

    left: int
    private: int
    links: int | None


class Sealing:
    """Seals the outputs of one build.

    Args:
        subject: The derivation, for messages.
        places: Where things are.
        owner: The user that made the outputs; None where that is our own.
        candidates: The hash parts that may occur.
    """

    def __init__(
        self, subject: str, places: Places, owner: int | None, candidates: Iterable[str]
    ) -> None:
        self._subject = subject
        self._places = places
        self._owner = owner
        self._candidates = frozenset(candidates)
        self._canonicaliser = Canonicaliser(owner)

    def seal(self, output: Output) -> SealedOutput:
        """Seal one output.

        Raises:
            ContentMismatchError: A fixed output has other content than was stated.
            StoreError: It is missing (reason ``missing-output``), could have been
                changed by others (``suspicious``), or is not what the store can hold.
            OSError: Something cannot be read or moved.
        """
        self._check(output)
        if output.fixed is None:
            place(self._places.left, output.name, self._places.private, output.name)
            self._canonicaliser.canonicalise(self._places.private, output.name, output.path)
        else:
            self._copy(output)
        return self._read(output)

    def _check(self, output: Output) -> None:
        try:
            status = os.stat(output.name, dir_fd=self._places.left, follow_symlinks=False)
        except FileNotFoundError as error:
            raise StoreError(
                f"builder for `{self._subject}' failed to produce output path `{output.path}'",
                reason="missing-output",
            ) from error
        is_link = stat.S_ISLNK(status.st_mode)
        writable = not is_link and bool(status.st_mode & WRITABLE_BY_OTHERS)
        if writable or (self._owner is not None and status.st_uid != self._owner):
            raise StoreError(
                f"suspicious ownership or permission on `{output.path}'; "
                "rejecting this build output",
                reason="suspicious",
            )
        plain = stat.S_ISREG(status.st_mode) and not status.st_mode & stat.S_IXUSR
        if output.fixed is not None and not output.fixed.recursive and not plain:
            raise StoreError(
                f"output path `{output.path}' should be a non-executable regular file",
                reason="not-regular",
            )

    def _copy(self, output: Output) -> None:
        events = walk(self._places.left, output.name)
        with Restorer(self._places.private, output.name) as restorer:
            restorer.apply(events)

    def _read(self, output: Output) -> SealedOutput:
        reading = Reading(self._candidates, output.fixed)
        reading.take_all(walk(self._places.private, output.name))
        if output.fixed is not None and reading.content_digest() != output.fixed.digest:
            raise ContentMismatchError(output.path, output.fixed, reading.content_digest())
        if self._places.links is not None:
            links = Links(self._places.links)
            links.deduplicate_tree(self._places.private, output.name, reading.files)
        return SealedOutput(
            output.name, reading.nar_digest(), reading.size, tuple(sorted(reading.references))
        )
