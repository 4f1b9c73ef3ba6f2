# SPDX-License-Identifier: GPL-3.0-or-later
"""Who connected, as the kernel and the user database tell."""

import os
import pwd
import socket
from collections.abc import Iterator

import pytest

from builder.options import Client
from storedaemon import peers
from storedaemon.peers import Identity, Peers, credentials, is_trusted, look_up, weight_of

ALICE = Identity("alice", known=True, groups=frozenset({"users", "builders"}))
NOBODY_KNOWN = Identity("4711", known=False, groups=frozenset())


@pytest.fixture
def pair() -> Iterator[socket.socket]:
    """One end of a connection with ourselves."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


@pytest.mark.parametrize(
    ("uid", "own_uid", "identity", "trusted_users", "expected"),
    [
        (0, 0, Identity("root", known=True, groups=frozenset()), (), True),
        (0, 1000, Identity("root", known=True, groups=frozenset()), (), True),
        (1000, 1000, ALICE, (), True),
        (1000, 0, ALICE, (), False),
        (1000, 0, ALICE, ("alice",), True),
        (1000, 0, ALICE, ("@builders",), True),
        (1000, 0, ALICE, ("builders", "@alice"), False),
        (4711, 0, NOBODY_KNOWN, ("4711", "@"), False),
    ],
)
def test_trust(  # noqa: D103 - the table says it
    uid: int, own_uid: int, identity: Identity, trusted_users: tuple[str, ...], *, expected: bool
):
    assert is_trusted(uid, own_uid, identity, trusted_users) is expected


def test_the_kernel_names_the_peer(pair: socket.socket):
    """Credentials are those of the process at the other end."""
    found = credentials(pair)
    assert found is not None
    assert (found.pid, found.uid, found.gid) == (os.getpid(), os.getuid(), os.getgid())


def test_users_are_looked_up():
    """Names and groups come from the user database; an unknown number stands for itself."""
    own = pwd.getpwuid(os.getuid())
    found = look_up(own.pw_uid, own.pw_gid, with_groups=True)
    assert found.name == own.pw_name
    assert found.known
    assert found.groups
    assert look_up(2**31 - 7, 0, with_groups=True) == Identity(
        str(2**31 - 7), known=False, groups=frozenset()
    )


async def test_a_unix_peer_is_identified_once(pair: socket.socket, monkeypatch: pytest.MonkeyPatch):
    """The second connection of a user asks the user database nothing."""
    identifier = Peers((), own_uid=os.getuid())
    name = pwd.getpwuid(os.getuid()).pw_name
    first = await identifier.identify(pair, 1)
    assert first == Client(1, os.getpid(), os.getuid(), os.getgid(), name, trusted=True)
    monkeypatch.setattr(peers, "look_up", None)
    assert (await identifier.identify(pair, 2)).user == name


async def test_a_tcp_peer_is_unknown_and_untrusted():
    """Nobody vouches for a connection over the network."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        accepted, _ = server.accept()
        with accepted:
            found = await Peers(("",), own_uid=0).identify(accepted, 9)
    assert found == Client(9, None, None, None, "", trusted=False)


async def test_remembered_users_are_bounded(pair: socket.socket, monkeypatch: pytest.MonkeyPatch):
    """A stream of distinct users does not fill memory."""
    identifier = Peers((), own_uid=0)
    monkeypatch.setattr(peers, "KEEP_ENTRIES", 3)
    numbers = iter(range(100, 110))
    monkeypatch.setattr(
        peers, "credentials", lambda _sock: peers.Credentials(1, next(numbers), 100)
    )
    for session in range(10):
        await identifier.identify(pair, session)
    assert len(identifier._known) == 3


@pytest.mark.parametrize(
    ("name", "groups", "weight"),
    [
        ("alice", {"staff"}, 2),
        ("bob", {"staff", "lab"}, 5),
        ("carol", set(), 1),
        ("4711", set(), 7),
    ],
)
def test_a_user_counts_what_is_said_of_it_or_of_its_groups(
    name: str, groups: set[str], weight: int
):
    """Its own name goes before its groups, and of these the one that counts most."""
    shares = {"alice": 2, "@staff": 3, "@lab": 5, "@alice": 9, "4711": 7}
    assert weight_of(Identity(name, known=True, groups=frozenset(groups)), shares) == weight
