# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests and replies of the worker protocols, without regard to a dialect.

A request holds what the peer sent, not yet checked: a `path` is any text. A
dialect's table says how each is laid out on the wire and which reply it gets.
Where a field is unknown to older peers its default stands for "not said".
"""

from dataclasses import dataclass
from enum import IntEnum

from builder.options import BuildMode


class GarbageAction(IntEnum):
    """What CollectGarbage may ask for."""

    RETURN_LIVE = 0
    RETURN_DEAD = 1
    DELETE_DEAD = 2
    DELETE_SPECIFIC = 3


# Requests


@dataclass(frozen=True, slots=True)
class PathRequest:
    """The requests that name one path and nothing else."""

    path: str


@dataclass(frozen=True, slots=True)
class PathsRequest:
    """The requests that name several paths and nothing else."""

    paths: tuple[str, ...]


class IsValidPath(PathRequest):
    """Is this item registered? Reply: `Truth`."""

    __slots__ = ()


class HasSubstitutes(PathRequest):
    """Can this item be substituted? Reply: `Truth`."""

    __slots__ = ()


class QueryPathHash(PathRequest):
    """What is the sha256 of this item's NAR form, in base 16? Reply: `TextReply`."""

    __slots__ = ()


class QueryReferences(PathRequest):
    """What does this item refer to? Reply: `TextsReply`."""

    __slots__ = ()


class QueryReferrers(PathRequest):
    """What refers to this item? Reply: `TextsReply`."""

    __slots__ = ()


class QueryValidDerivers(PathRequest):
    """Which registered derivations have this item as an output? Reply: `TextsReply`."""

    __slots__ = ()


class QueryDerivationOutputs(PathRequest):
    """What are this derivation's outputs? Reply: `TextsReply`."""

    __slots__ = ()


class QueryDerivationOutputNames(PathRequest):
    """What are this derivation's outputs called? Reply: `TextsReply`."""

    __slots__ = ()


class QueryDeriver(PathRequest):
    """Which derivation made this item? Reply: `TextReply`, empty if unknown."""

    __slots__ = ()


class QueryPathInfo(PathRequest):
    """What is known of this item? Reply: `PathInfoReply`."""

    __slots__ = ()


class QuerySubstitutablePathInfo(PathRequest):
    """What do substituters say of this item? Reply: `SubstitutableReply`."""

    __slots__ = ()


class EnsurePath(PathRequest):
    """Make this item valid, by substitution if need be. Reply: `Done`."""

    __slots__ = ()


class AddTempRoot(PathRequest):
    """Keep this item for as long as the connection lasts. Reply: `Done`."""

    __slots__ = ()


class AddIndirectRoot(PathRequest):
    """Keep what the symbolic link `path`, outside the store, points to. Reply: `Done`."""

    __slots__ = ()


class QueryValidPaths(PathsRequest):
    """Which of these are registered? Reply: `TextsReply`."""

    __slots__ = ()


class QuerySubstitutablePaths(PathsRequest):
    """Which of these can be substituted? Reply: `TextsReply`."""

    __slots__ = ()


class QuerySubstitutablePathInfos(PathsRequest):
    """What do substituters say of these? Reply: `SubstitutablesReply`."""

    __slots__ = ()


class ClearFailedPaths(PathsRequest):
    """Forget that these failed to build; `*` is all. Reply: `Done`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class QueryPathFromHashPart:
    """Which item has this hash part? Reply: `TextReply`, empty if none."""

    hash_part: str


@dataclass(frozen=True, slots=True)
class AddToStore:
    """Add what the NAR says that follows. Reply: `TextReply`, the item's path.

    Attributes:
        name: The item's name, without its hash part.
        recursive: Whether the hash is that of the NAR form; if not, the NAR must
            hold one regular file, and the hash is that of its contents.
        algorithm: The hash's algorithm.
        fixed: Always true in practice; if false, `recursive` and `algorithm` count
            for nothing, and the item is added recursively by sha256.
    """

    name: str
    recursive: bool
    algorithm: str
    fixed: bool = True


@dataclass(frozen=True, slots=True)
class AddTextToStore:
    """Add a text that refers to some items. Reply: `TextReply`, the item's path."""

    name: str
    text: bytes
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildPaths:
    """Build derivations, substitute other items. Reply: `Done`.

    Attributes:
        paths: Derivations, each perhaps with ``!`` and names of outputs, or items.
        mode: Whether to build, to repair or to build again and compare.
    """

    paths: tuple[str, ...]
    mode: BuildMode = BuildMode.NORMAL


@dataclass(frozen=True, slots=True)
class SyncWithGC:
    """Wait until a running collection has seen our roots. Reply: `Done`."""


@dataclass(frozen=True, slots=True)
class FindRoots:
    """What are the roots? Reply: `RootsReply`."""


@dataclass(frozen=True, slots=True)
class ExportPath:
    """Stream an item. Reply: `Done`, after the stream."""

    path: str
    sign: bool


@dataclass(frozen=True, slots=True)
class ImportPaths:
    """Register items from a stream that the daemon asks for. Reply: `TextsReply`."""


@dataclass(frozen=True, slots=True)
class SetOptions:
    """How this connection wants things done from now on. Reply: `NoReply`.

    Attributes:
        keep_failed: Keep build directories of failed builds.
        keep_going: Go on with other builds after a failure.
        fallback: Build where a substitute fails.
        verbosity: Messages up to this level are wanted.
        use_build_hook: Offload builds to other machines.
        build_verbosity: Builders' output is wanted from this verbosity on.
        log_type: How nested messages are marked.
        print_build_trace: Send trace lines that begin with ``@``.
        use_substitutes: Ask substituters.
        settings: Names and values; each is subject to who asks.
        max_jobs: From peers before minor 0x61 only, as are the next two.
        max_silent_time: Seconds.
        build_cores: The value of ``NIX_BUILD_CORES``.
    """

    keep_failed: bool
    keep_going: bool
    fallback: bool
    verbosity: int
    use_build_hook: bool = True
    build_verbosity: int = 0
    log_type: int = 0
    print_build_trace: bool = False
    use_substitutes: bool = True
    settings: tuple[tuple[str, str], ...] = ()
    max_jobs: int | None = None
    max_silent_time: int | None = None
    build_cores: int | None = None


@dataclass(frozen=True, slots=True)
class CollectGarbage:
    """Find or delete garbage. Reply: `GarbageReply`.

    Attributes:
        action: What to do.
        paths: The items to delete, for ``DELETE_SPECIFIC``.
        ignore_liveness: Delete them even if they are in use; always refused.
        max_freed: Stop when this many bytes are freed.
    """

    action: GarbageAction
    paths: tuple[str, ...]
    ignore_liveness: bool
    max_freed: int


@dataclass(frozen=True, slots=True)
class QueryAllValidPaths:
    """Which items are registered? Reply: `TextsReply`."""


@dataclass(frozen=True, slots=True)
class QueryFailedPaths:
    """Which outputs failed to build? Reply: `TextsReply`."""


@dataclass(frozen=True, slots=True)
class OptimiseStore:
    """Let equal files share their contents. Reply: `Done`."""


@dataclass(frozen=True, slots=True)
class VerifyStore:
    """Compare the store with its database. Reply: `Truth`, whether errors remain."""

    check_contents: bool
    repair: bool


@dataclass(frozen=True, slots=True)
class BuiltinBuilders:
    """Which builders are part of the daemon? Reply: `TextsReply`."""


@dataclass(frozen=True, slots=True)
class SubstituteURLs:
    """Where do substitutes come from? Reply: `TextsReply`."""


# Replies


@dataclass(frozen=True, slots=True)
class NoReply:
    """The end of the work says it all."""


@dataclass(frozen=True, slots=True)
class Done:
    """It is done."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Yes or no."""

    value: bool


@dataclass(frozen=True, slots=True)
class TextReply:
    """One path or hash."""

    value: str


@dataclass(frozen=True, slots=True)
class TextsReply:
    """Several paths or names."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PathInfoReply:
    """What the database knows of an item.

    Attributes:
        deriver: The derivation that made it, or nothing.
        nar_hash: sha256 of its NAR form, in base 16.
        references: What it refers to.
        registration_time: Seconds since the epoch.
        nar_size: Bytes of its NAR form.
    """

    deriver: str
    nar_hash: str
    references: tuple[str, ...]
    registration_time: int
    nar_size: int


@dataclass(frozen=True, slots=True)
class RootsReply:
    """Each root: its file name, and the item it keeps."""

    roots: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class GarbageReply:
    """The items found or deleted, and how many bytes that freed."""

    paths: tuple[str, ...]
    bytes_freed: int


@dataclass(frozen=True, slots=True)
class Substitutable:
    """What substituters say of one item; sizes are in bytes, 0 if unknown."""

    path: str
    deriver: str
    references: tuple[str, ...]
    download_size: int
    nar_size: int


@dataclass(frozen=True, slots=True)
class SubstitutableReply:
    """The item that was asked for, or None; its `path` is left empty."""

    info: Substitutable | None


@dataclass(frozen=True, slots=True)
class SubstitutablesReply:
    """Those items that can be substituted."""

    infos: tuple[Substitutable, ...]


Request = (
    PathRequest
    | PathsRequest
    | QueryPathFromHashPart
    | AddToStore
    | AddTextToStore
    | BuildPaths
    | SyncWithGC
    | FindRoots
    | ExportPath
    | ImportPaths
    | SetOptions
    | CollectGarbage
    | QueryAllValidPaths
    | QueryFailedPaths
    | OptimiseStore
    | VerifyStore
    | BuiltinBuilders
    | SubstituteURLs
)

Reply = (
    NoReply
    | Done
    | Truth
    | TextReply
    | TextsReply
    | PathInfoReply
    | RootsReply
    | GarbageReply
    | SubstitutableReply
    | SubstitutablesReply
)
