# SPDX-License-Identifier: GPL-3.0-or-later
"""The Guix dialect, version 0x164, as a table of operations.

Each row is data: the operation's number, its request and its reply, field by
field, and what follows the request. The facts are those of Guix's C++ daemon
and of its client's ``(guix remote-procedures)``.
"""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from builder.options import BuildMode
from storedaemon.wire import messages as m
from storedaemon.wire.layout import Field, Layout, Obsolete, layout_for
from storedaemon.wire.primitives import (
    BOOLEAN,
    MAX_CONTENTS,
    MAX_REPLY_ITEMS,
    TEXT,
    TEXTS,
    U32_KIND,
    U64_KIND,
    Choice,
    Contents,
    Many,
    Optional,
    Pair,
    Record,
)

VERSION = 0x164
CLIENT_MAGIC = 0x6E697863
DAEMON_MAGIC = 0x6478696F

NEXT = 0x6F6C6D67
READ = 0x64617461
WRITE = 0x64617416
LAST = 0x616C7473
ERROR = 0x63787470

STATUS_SINCE = 8
"""The first minor whose errors carry a status; a status of 0 is left out for any."""

SETTINGS_ONLY = 0x61
"""The first minor that says in SetOptions' settings what were fields before."""


def major(version: int) -> int:
    """Give the part of a version that both ends must share."""
    return version & 0xFF00


def minor(version: int) -> int:
    """Give the part of a version that says which fields there are."""
    return version & 0x00FF


class Body(Enum):
    """What follows a request, outside its fields."""

    NONE = "nothing"
    NAR = "an archive, which says itself where it ends"
    PULLED = "a stream in strings, each as an answer to READ"


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table, for one minor version.

    Attributes:
        code: The number that opens the request.
        name: The name in the protocol, for messages and logs.
        request: The request's fields.
        reply: The reply's fields, which follow LAST.
        body: What follows the request.
    """

    code: int
    name: str
    request: Layout
    reply: Layout
    body: Body


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table, for all minor versions."""

    code: int
    request: type[Any]
    fields: tuple[Field, ...]
    reply: type[Any]
    body: Body = Body.NONE


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client says after both ends know each other's version.

    Attributes:
        affinity: The CPU that the client runs on, if it wants the daemon there too.
        reserve_space: Whether the daemon keeps some disk space back, for collections.
    """

    affinity: int | None = None
    reserve_space: bool = True


_PATH = (Field("path", TEXT),)
_PATHS = (Field("paths", TEXTS),)
_REPLY_TEXTS = Many(TEXT, MAX_REPLY_ITEMS)
_ITEM = (("path", TEXT),)
_FROM_SUBSTITUTER = (
    ("deriver", TEXT),
    ("references", TEXTS),
    ("download_size", U64_KIND),
)
_NAR_SIZE = (("nar_size", U64_KIND),)


def _substitutable(path: str = "", nar_size: int = 0, **known: Any) -> m.Substitutable:
    return m.Substitutable(path=path, nar_size=nar_size, **known)


_BARE_OLD = Record(_substitutable, _FROM_SUBSTITUTER)
_BARE = Record(_substitutable, _FROM_SUBSTITUTER + _NAR_SIZE)
_NAMED = Record(_substitutable, _ITEM + _FROM_SUBSTITUTER + _NAR_SIZE)

CLIENT_HELLO = (
    Field("affinity", Optional(U32_KIND), since=14),
    Field("reserve_space", BOOLEAN, since=11),
)

REPLIES: MappingProxyType[type[Any], tuple[Field, ...]] = MappingProxyType(
    {
        m.NoReply: (),
        m.Done: (Obsolete("done", U32_KIND, value=1),),
        m.Truth: (Field("value", BOOLEAN),),
        m.TextReply: (Field("value", TEXT),),
        m.TextsReply: (Field("values", _REPLY_TEXTS),),
        m.PathInfoReply: (
            Field("deriver", TEXT),
            Field("nar_hash", TEXT),
            Field("references", _REPLY_TEXTS),
            Field("registration_time", U32_KIND),
            Field("nar_size", U64_KIND),
        ),
        m.RootsReply: (Field("roots", Many(Pair(), MAX_REPLY_ITEMS)),),
        m.GarbageReply: (
            Field("paths", _REPLY_TEXTS),
            Field("bytes_freed", U64_KIND),
            Obsolete("blocks_freed", U64_KIND),
        ),
        m.SubstitutableReply: (
            Field("info", Optional(_BARE_OLD), before=7),
            Field("info", Optional(_BARE), since=7),
        ),
        m.SubstitutablesReply: (Field("infos", Many(_NAMED, MAX_REPLY_ITEMS)),),
    }
)

_SET_OPTIONS = (
    Field("keep_failed", BOOLEAN),
    Field("keep_going", BOOLEAN),
    Field("fallback", BOOLEAN),
    Field("verbosity", U32_KIND),
    Field("max_jobs", U32_KIND, before=SETTINGS_ONLY),
    Field("max_silent_time", U32_KIND, before=SETTINGS_ONLY),
    Field("use_build_hook", BOOLEAN, since=2),
    Field("build_verbosity", U32_KIND, since=4),
    Field("log_type", U32_KIND, since=4),
    Field("print_build_trace", BOOLEAN, since=4),
    Field("build_cores", U32_KIND, since=6, before=SETTINGS_ONLY),
    Field("use_substitutes", BOOLEAN, since=10),
    Field("settings", Many(Pair()), since=12),
)

_COLLECT_GARBAGE = (
    Field("action", Choice(m.GarbageAction)),
    Field("paths", TEXTS),
    Field("ignore_liveness", BOOLEAN),
    Field("max_freed", U64_KIND),
    Obsolete("max_links", U32_KIND),
    Obsolete("use_atime", U32_KIND, since=5),
    Obsolete("max_atime", U32_KIND, since=5),
)

_ADD_TO_STORE = (
    Field("name", TEXT),
    Field("fixed", BOOLEAN),
    Field("recursive", BOOLEAN),
    Field("algorithm", TEXT),
)

_ADD_TEXT_TO_STORE = (
    Field("name", TEXT),
    Field("text", Contents(MAX_CONTENTS)),
    Field("references", TEXTS),
)

_BUILD_PATHS = (
    Field("paths", TEXTS),
    Field("mode", Choice(BuildMode), since=15),
)

TABLE = (
    Row(1, m.IsValidPath, _PATH, m.Truth),
    Row(3, m.HasSubstitutes, _PATH, m.Truth),
    Row(4, m.QueryPathHash, _PATH, m.TextReply),
    Row(5, m.QueryReferences, _PATH, m.TextsReply),
    Row(6, m.QueryReferrers, _PATH, m.TextsReply),
    Row(7, m.AddToStore, _ADD_TO_STORE, m.TextReply, body=Body.NAR),
    Row(8, m.AddTextToStore, _ADD_TEXT_TO_STORE, m.TextReply),
    Row(9, m.BuildPaths, _BUILD_PATHS, m.Done),
    Row(10, m.EnsurePath, _PATH, m.Done),
    Row(11, m.AddTempRoot, _PATH, m.Done),
    Row(12, m.AddIndirectRoot, _PATH, m.Done),
    Row(13, m.SyncWithGC, (), m.Done),
    Row(14, m.FindRoots, (), m.RootsReply),
    Row(16, m.ExportPath, (*_PATH, Field("sign", BOOLEAN)), m.Done),
    Row(18, m.QueryDeriver, _PATH, m.TextReply),
    Row(19, m.SetOptions, _SET_OPTIONS, m.NoReply),
    Row(20, m.CollectGarbage, _COLLECT_GARBAGE, m.GarbageReply),
    Row(21, m.QuerySubstitutablePathInfo, _PATH, m.SubstitutableReply),
    Row(22, m.QueryDerivationOutputs, _PATH, m.TextsReply),
    Row(23, m.QueryAllValidPaths, (), m.TextsReply),
    Row(24, m.QueryFailedPaths, (), m.TextsReply),
    Row(25, m.ClearFailedPaths, _PATHS, m.Done),
    Row(26, m.QueryPathInfo, _PATH, m.PathInfoReply),
    Row(27, m.ImportPaths, (), m.TextsReply, body=Body.PULLED),
    Row(28, m.QueryDerivationOutputNames, _PATH, m.TextsReply),
    Row(29, m.QueryPathFromHashPart, (Field("hash_part", TEXT),), m.TextReply),
    Row(30, m.QuerySubstitutablePathInfos, _PATHS, m.SubstitutablesReply),
    Row(31, m.QueryValidPaths, _PATHS, m.TextsReply),
    Row(32, m.QuerySubstitutablePaths, _PATHS, m.TextsReply),
    Row(33, m.QueryValidDerivers, _PATH, m.TextsReply),
    Row(34, m.OptimiseStore, (), m.Done),
    Row(
        35,
        m.VerifyStore,
        (Field("check_contents", BOOLEAN), Field("repair", BOOLEAN)),
        m.Truth,
    ),
    Row(80, m.BuiltinBuilders, (), m.TextsReply),
    Row(81, m.SubstituteURLs, (), m.TextsReply),
)


KEPT_VERSIONS = 16


@lru_cache(maxsize=KEPT_VERSIONS)
def operations(minor_version: int) -> MappingProxyType[int, Operation]:
    """Give the operations, by number, as a peer of one minor version speaks them.

    Clients of one site speak few of the 256.
    """
    return MappingProxyType({row.code: _operation(row, minor_version) for row in TABLE})


def _operation(row: Row, minor_version: int) -> Operation:
    return Operation(
        row.code,
        row.request.__name__,
        layout_for(minor_version, row.request, row.fields),
        layout_for(minor_version, row.reply, REPLIES[row.reply]),
        row.body,
    )


@lru_cache(maxsize=KEPT_VERSIONS)
def operations_by_request(minor_version: int) -> MappingProxyType[type[Any], Operation]:
    """Give the operations by the type of their request; for clients."""
    table = operations(minor_version)
    return MappingProxyType({each.request.type: each for each in table.values()})


@lru_cache(maxsize=KEPT_VERSIONS)
def client_hello(minor_version: int) -> Layout:
    """Give the layout of what a client says after its version."""
    return layout_for(minor_version, ClientHello, CLIENT_HELLO)
