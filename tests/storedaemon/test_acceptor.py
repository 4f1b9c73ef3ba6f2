# SPDX-License-Identifier: GPL-3.0-or-later
"""Accepting clients over real sockets: each session is its own, and the number is bounded."""

import errno
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from structlog.testing import capture_logs

from builder.options import Client
from store.layout import Layout
from store.temproots import TempRoots
from storedaemon.acceptor import Acceptor
from storedaemon.addresses import UnixAddress
from storedaemon.peers import Peers
from storedaemon.session import Session
from storedaemon.sockets import Dialect, Listener, open_listeners


async def echo(sock: socket.socket, session: Session) -> None:
    """A dialect whose clients get back what they send, until they send something it chokes on."""
    session.operation = "echo"
    while True:
        await trio.lowlevel.wait_readable(sock)
        data = sock.recv(100)
        if not data:
            return
        if data == b"crash":
            raise RuntimeError("choked")
        sock.send(data)


@dataclass
class Site:
    """An acceptor and what belongs to it."""

    acceptor: Acceptor
    listener: Listener
    sessions: dict[int, Session] = field(default_factory=dict)

    async def connect(self) -> socket.socket:
        """Connect, and wait until the session answers."""
        sock = await self.connect_unanswered()
        await ask(sock, b"hello")
        return sock

    async def connect_unanswered(self) -> socket.socket:
        """Connect without waiting for the session."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(self.listener.address)
        return sock


async def ask(sock: socket.socket, data: bytes) -> None:
    """Have something echoed."""
    sock.send(data)
    assert await receive(sock) == data


async def receive(sock: socket.socket) -> bytes:
    """Receive what comes next; nothing at the end."""
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(sock)
    try:
        return sock.recv(100)
    except ConnectionResetError:
        return b""


@asynccontextmanager
async def no_lock(_fd: int):
    """Temporary roots need no locker where nobody collects."""
    yield


@pytest.fixture
async def roots(tmp_path: Path):
    """Temporary roots of sessions."""
    layout = Layout.under(str(tmp_path / "store"), str(tmp_path / "state"))
    async with TempRoots.open(layout, no_lock) as opened:
        yield opened


@asynccontextmanager
async def site(
    tmp_path: Path,
    roots: TempRoots,
    serve: Callable[[socket.socket, Session], Awaitable[None]] = echo,
    limit: int = 100,
):
    """An acceptor that serves one dialect on one socket."""

    def open_session(client: Client, dialect: Dialect) -> Session:
        log = structlog.get_logger().bind(session=client.session)
        return Session(client, dialect, log, roots.session())

    sessions: dict[int, Session] = {}
    (listener,) = open_listeners([], [UnixAddress(str(tmp_path / "socket"))])
    acceptor = Acceptor(
        Peers((), os.geteuid()),
        open_session,
        {Dialect.NATIVE: serve},
        sessions,
        limit,
        structlog.get_logger(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acceptor.accept, listener, nursery)
        yield Site(acceptor, listener, sessions)
        nursery.cancel_scope.cancel()
    listener.close()


async def test_each_client_has_a_session_of_its_own(tmp_path: Path, roots: TempRoots):
    """Sessions are numbered, listed while they last, and know their client."""
    async with site(tmp_path, roots) as here:
        first, second = await here.connect(), await here.connect()
        assert list(here.sessions) == [1, 2]
        assert here.sessions[1].client.pid == os.getpid()
        assert here.sessions[1].client.trusted
        first.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert list(here.sessions) == [2]
        await ask(second, b"still here")
        second.close()


async def test_a_crash_ends_one_session_alone(tmp_path: Path, roots: TempRoots):
    """The others are served as before, and the traceback is reported."""
    async with site(tmp_path, roots) as here:
        good, bad = await here.connect(), await here.connect()
        with capture_logs() as events:
            bad.send(b"crash")
            assert await receive(bad) == b""
        await ask(good, b"still here")
        (crash,) = [event for event in events if event["event"] == "session crashed"]
        assert crash["session"] == 2
        assert crash["exc_info"]
        good.close()
        bad.close()


async def test_temporary_roots_end_with_the_session(tmp_path: Path, roots: TempRoots):
    """However a session ends, what it kept alive is given up."""
    item = "/gnu/store/0c0h1hbmpmgxr5c4xw9sz2qjyh2wc0xv-x"

    async def keep(sock: socket.socket, session: Session) -> None:
        await session.roots.add(item)
        sock.send(b"kept")
        await echo(sock, session)

    async with site(tmp_path, roots, keep) as here:
        sock = await here.connect_unanswered()
        assert await receive(sock) == b"kept"
        assert roots.live() == {item}
        sock.send(b"crash")
        await receive(sock)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert roots.live() == frozenset()
        sock.close()


async def test_newcomers_wait_when_there_are_too_many(tmp_path: Path, roots: TempRoots):
    """Beyond the limit a client is served as soon as another leaves."""
    async with site(tmp_path, roots, limit=2) as here:
        first, second = await here.connect(), await here.connect()
        third = await here.connect_unanswered()
        third.send(b"me too")
        with capture_logs():
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(here.sessions) == 2
        first.close()
        assert await receive(third) == b"me too"
        second.close()
        third.close()


async def test_a_lack_of_descriptors_passes(tmp_path: Path, roots: TempRoots):
    """When no descriptor is free the newcomer waits, and is served once there is one."""
    async with site(tmp_path, roots) as here:
        sock = await here.connect_unanswered()
        sock.send(b"patient")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with capture_logs() as events:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free(), hard))
            try:
                await trio.testing.wait_all_tasks_blocked(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert os.strerror(errno.EMFILE) in events[0]["error"]
        assert await receive(sock) == b"patient"
        sock.close()


def _lowest_free() -> int:
    fd = os.open("/", os.O_PATH)
    os.close(fd)
    return fd


async def test_hanging_up_ends_every_connection(tmp_path: Path, roots: TempRoots):
    """Even a session that sits in a thread on its socket comes back."""

    async def blocking(sock: socket.socket, session: Session) -> None:
        sock.setblocking(True)
        sock.send(b"in")
        session.operation = (await trio.to_thread.run_sync(sock.recv, 100)).decode()

    async with site(tmp_path, roots, blocking) as here:
        sock = await here.connect_unanswered()
        assert await receive(sock) == b"in"
        here.acceptor.hang_up()
        assert await receive(sock) == b""
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert here.sessions == {}
        sock.close()
