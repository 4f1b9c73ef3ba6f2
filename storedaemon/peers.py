# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is at the other end of a connection, and whether it is trusted.

The kernel says who connected to a Unix socket (``SO_PEERCRED``). Over TCP nobody
is known, and so nobody is trusted. Looking up names may ask a directory server,
so it happens in a thread, and answers are kept for a while.
Entry point: `Peers.identify`.
"""

import grp
import os
import pwd
import socket
import struct
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import trio

from builder.options import Client
from store.tally import CacheStatistics, Tally

_UCRED = struct.Struct("3i")
# Long enough that a busy user costs no look-ups, short enough that a user who
# leaves a trusted group soon loses its trust.
KEEP_SECONDS = 60.0
KEEP_ENTRIES = 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the kernel tells of a peer."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What the system's user database tells of a user; `name` is the number where none is known."""

    name: str
    known: bool
    groups: frozenset[str]


def credentials(sock: socket.socket) -> Credentials | None:
    """Ask the kernel who connected; None where it cannot know.

    The pid may be 0 where the peer lives in a pid namespace that we cannot see.
    """
    if sock.family != socket.AF_UNIX:
        return None
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(raw))


def look_up(uid: int, gid: int, *, with_groups: bool) -> Identity:
    """Ask the user database of a user; this may wait for a server."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return Identity(str(uid), known=False, groups=frozenset())
    groups = os.getgrouplist(name, gid) if with_groups else ()
    return Identity(name, known=True, groups=frozenset(filter(None, map(_group_name, groups))))


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def is_trusted(uid: int, own_uid: int, identity: Identity, trusted: Collection[str]) -> bool:
    """Decide whether a user may change how others' items are made.

    Root is trusted, and whoever the daemon runs as; beyond these, users and
    ``@GROUP`` that the configuration names.
    """
    if uid in (0, own_uid):
        return True
    if not identity.known:
        return False
    return identity.name in trusted or any(f"@{group}" in trusted for group in identity.groups)


def weight_of(identity: Identity, shares: Mapping[str, int]) -> int:
    """Tell what a user counts: what is said of it, else the most that is said of its groups."""
    if identity.name in shares:
        return shares[identity.name]
    return max((shares.get(f"@{group}", 1) for group in identity.groups), default=1)


class Peers:
    """Identifies the clients of a daemon.

    Args:
        trusted_users: Names and ``@GROUP`` of those who are trusted beside root.
        own_uid: Whom the daemon runs as.
        shares: What users, and the members of each ``@GROUP``, count; others count 1.
    """

    def __init__(
        self, trusted_users: Collection[str], own_uid: int, shares: Mapping[str, int] | None = None
    ) -> None:
        self._trusted = frozenset(trusted_users)
        self._shares = shares or {}
        self._own_uid = own_uid
        self._tally = Tally()
        self._known: OrderedDict[tuple[int, int], tuple[float, Identity]] = OrderedDict()

    async def identify(self, sock: socket.socket, session: int) -> Client:
        """Tell who connected."""
        found = credentials(sock)
        if found is None:
            return Client(session, None, None, None, "", trusted=False)
        return replace(await self.recognise(found.uid, found.gid, session), pid=found.pid or None)

    async def recognise(self, uid: int, gid: int, session: int) -> Client:
        """Tell of somebody who is known by numbers alone."""
        identity = await self._identity(uid, gid)
        trusted = is_trusted(uid, self._own_uid, identity, self._trusted)
        weight = weight_of(identity, self._shares)
        return Client(session, None, uid, gid, identity.name, trusted, weight=weight)

    def statistics(self) -> CacheStatistics:
        """Return how often a user was known already."""
        return self._tally.of_entries("users", len(self._known), KEEP_ENTRIES)

    async def _identity(self, uid: int, gid: int) -> Identity:
        entry = self._known.get((uid, gid))
        counts = entry is not None and entry[0] > trio.current_time()
        self._tally.looked_up(found=counts)
        if entry is not None and counts:
            return entry[1]
        with_groups = any(name.startswith("@") for name in (*self._trusted, *self._shares))
        identity = await trio.to_thread.run_sync(
            lambda: look_up(uid, gid, with_groups=with_groups), abandon_on_cancel=True
        )
        self._known[uid, gid] = (trio.current_time() + KEEP_SECONDS, identity)
        self._known.move_to_end((uid, gid))
        if len(self._known) > KEEP_ENTRIES:
            self._known.popitem(last=False)
            self._tally.evictions += 1
        return identity
