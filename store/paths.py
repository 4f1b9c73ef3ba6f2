# SPDX-License-Identifier: GPL-3.0-or-later
"""Store paths: what one looks like, and how one is computed.

A store path is ``DIRECTORY/HASH-NAME``: the store directory, 32 base-32 digits,
and a name of few letters. Text from outside becomes a `StorePath` only through
`StoreDirectory.parse`, or by being computed here; whoever holds one may rely on
its form. The computation hashes ``TYPE:sha256:DIGEST:DIRECTORY:NAME``, where the
type keeps texts, sources and build outputs from ever meeting under one name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NewType

from store import base32
from store.errors import InvalidPathError
from store.hashes import Digest, HashAlgorithm, compress

StorePath = NewType("StorePath", str)

HASH_PART_LENGTH = 32

#: ``HASH-NAME.lock`` must still fit into the 255 bytes of a Linux file name.
MAX_NAME_LENGTH = 255 - len(".lock") - HASH_PART_LENGTH - 1

DERIVATION_SUFFIX = ".drv"

_NAME_CHARACTERS = r"A-Za-z0-9+\-._?="
_NAME = re.compile(rf"(?!\.)[{_NAME_CHARACTERS}]{{1,{MAX_NAME_LENGTH}}}")
_ITEM = rf"[{base32.ALPHABET}]{{{HASH_PART_LENGTH}}}-{_NAME.pattern}"
_FOREIGN_CHARACTER = re.compile(f"[^{_NAME_CHARACTERS}]", re.DOTALL)


def check_name(name: str) -> None:
    """Refuse what no store item may be called.

    Raises:
        InvalidPathError: In the reference daemon's words, where it has the same rule.
    """
    if _NAME.fullmatch(name):
        return
    if name.startswith("."):
        raise InvalidPathError(f"invalid name: `{name}' (can't begin with dot)")
    foreign = _FOREIGN_CHARACTER.search(name)
    if foreign:
        raise InvalidPathError(f"invalid character `{foreign[0]}' in name `{name}'")
    if not name:
        raise InvalidPathError("invalid name: `' (is empty)")
    raise InvalidPathError(f"invalid name: `{name}' (longer than {MAX_NAME_LENGTH} characters)")


def hash_part(path: StorePath) -> str:
    """Return the 32 digits of a store path's hash."""
    start = path.rindex("/") + 1
    return path[start : start + HASH_PART_LENGTH]


def name_of(path: StorePath) -> str:
    """Return what follows the hash and the dash."""
    return path[path.rindex("/") + HASH_PART_LENGTH + 2 :]


def is_derivation(path: str) -> bool:
    """Return whether a path or name is that of a derivation, which its suffix alone tells."""
    return path.endswith(DERIVATION_SUFFIX)


@dataclass(frozen=True, slots=True)
class StoreDirectory:
    """The directory that holds all items, such as ``/gnu/store``, and its paths.

    Attributes:
        path: Absolute and plain: no final slash, no doubled one, no ``.`` or ``..``.
    """

    path: str
    _prefix: str = field(init=False, repr=False, compare=False)
    _item: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        components = self.path.split("/")
        if len(components) < 2 or components[0] or {"", ".", ".."} & set(components[1:]):
            raise ValueError(f"the store must be an absolute, plain path, not '{self.path}'")
        prefix = self.path + "/"
        object.__setattr__(self, "_prefix", prefix)
        object.__setattr__(self, "_item", re.compile(re.escape(prefix) + _ITEM))

    def parse(self, text: str) -> StorePath:
        """Return `text` as the store path it is.

        Raises:
            InvalidPathError: It lies elsewhere or below an item ("is not in the
                store", which clients know), or is no hash, dash and name.
        """
        if self._item.fullmatch(text):
            return StorePath(text)
        if not self.names_entry(text):
            raise InvalidPathError(f"path `{text}' is not in the store")
        raise InvalidPathError(f"path `{text}' is not a store path: it is no hash, dash and name")

    def is_store_path(self, text: str) -> bool:
        """Return whether `parse` would accept `text`."""
        return self._item.fullmatch(text) is not None

    def contains(self, text: str) -> bool:
        """Return whether `text` is spelt as something in the store, at any depth."""
        return text.startswith(self._prefix) and len(text) > len(self._prefix)

    def names_entry(self, text: str) -> bool:
        """Return whether `text` is spelt as a direct entry of the store, well-formed or not.

        The reference daemon takes such a path in queries and finds that nothing
        has it, where `parse` already refuses it.
        """
        name = text.removeprefix(self._prefix)
        return len(name) < len(text) and "/" not in name and name not in {"", ".", ".."}

    def item_of(self, text: str) -> StorePath:
        """Return the item that a path in the store belongs to; what follows it is not looked at.

        Raises:
            InvalidPathError: The path is not in the store, or not in an item.
        """
        if not self.contains(text):
            raise InvalidPathError(f"path `{text}' is not in the store")
        end = text.find("/", len(self._prefix))
        return self.parse(text if end < 0 else text[:end])

    def join(self, hash_and_name: str) -> StorePath:
        """Return the path of the item with that file name.

        Raises:
            InvalidPathError: No item may have it.
        """
        return self.parse(self._prefix + hash_and_name)

    def text_path(
        self, name: str, contents_sha256: bytes, references: Iterable[StorePath]
    ) -> StorePath:
        """Compute the path of a text that was added together with its references.

        Args:
            name: The item's name.
            contents_sha256: The hash of the text itself, not of its archive.
            references: In any order; each counts once.

        Raises:
            InvalidPathError: No item may have the name.
        """
        # What is in order already, as a rule, is sorted much more quickly than a set of it.
        ordered = sorted(references)
        kind = ":".join(["text", *dict.fromkeys(ordered)])
        return self._compute(kind, contents_sha256, name)

    def fixed_output_path(self, name: str, recursive: bool, digest: Digest) -> StorePath:  # noqa: FBT001 - it stands beside its digest in every dialect
        """Compute the path of content that is known by its hash beforehand.

        Args:
            name: The item's name.
            recursive: Whether the digest is that of the archive form.
            digest: Of the archive form, or of the file's bytes.

        Raises:
            InvalidPathError: No item may have the name.
        """
        if recursive and digest.algorithm is HashAlgorithm.SHA256:
            return self._compute("source", digest.value, name)
        method = "r:" if recursive else ""
        content = f"fixed:out:{method}{digest.algorithm}:{digest.base16}:"
        return self._compute("output:out", sha256(content.encode()).digest(), name)

    def output_path(self, output_id: str, drv_hash: bytes, drv_name: str) -> StorePath:
        """Compute the path of a derivation's output.

        Args:
            output_id: The output's name; any but "out" becomes a suffix.
            drv_hash: sha256 of the derivation with its outputs blanked and its
                inputs replaced by their hashes (`derivations.hash_derivation_modulo`).
            drv_name: The derivation's name without its ``.drv``.

        Raises:
            InvalidPathError: No item may have the resulting name.
        """
        name = drv_name if output_id == "out" else f"{drv_name}-{output_id}"
        return self._compute(f"output:{output_id}", drv_hash, name)

    def _compute(self, kind: str, inner_sha256: bytes, name: str) -> StorePath:
        check_name(name)
        described = f"{kind}:sha256:{inner_sha256.hex()}:{self.path}:{name}"
        digest = sha256(described.encode("utf-8", "surrogateescape")).digest()
        return StorePath(f"{self._prefix}{base32.encode(compress(digest, 20))}-{name}")
