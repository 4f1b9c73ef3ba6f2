# SPDX-License-Identifier: GPL-3.0-or-later
"""Listening sockets: opened from addresses, or inherited from a service manager.

Each socket speaks one dialect, which is a property of the socket and is never
guessed from what a client sends. Entry points: `open_listeners`,
`inherited_listeners`, `Listener.close`.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from store.errors import StoreError
from storedaemon.addresses import Address, TcpAddress, UnixAddress

# One more would be cut off or refused: sun_path holds 108 bytes with the final NUL.
LONGEST_SUN_PATH = 107
BACKLOG = 1024
FIRST_INHERITED_FD = 3


class Dialect(StrEnum):
    """What is spoken on a socket."""

    GUIX = "guix"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket.

    Attributes:
        socket: Non-blocking and listening.
        dialect: What its clients speak.
        address: How logs name it.
        identity: Device and inode of the socket file we made; None for sockets
            that are not ours to remove.
    """

    socket: socket.socket
    dialect: Dialect
    address: str
    identity: tuple[int, int] | None = None

    @property
    def is_remote(self) -> bool:
        """Whether clients may be on other machines, and so have no known user."""
        return self.socket.family != socket.AF_UNIX

    def close(self) -> None:
        """Stop listening, and remove the socket file if it still is the one we made.

        Once only: the number of a file that is gone may be the next one's.
        """
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        if self.identity is None:
            return
        # Somebody else may have removed it or put his own in its place.
        with contextlib.suppress(FileNotFoundError):
            if _identity(self.address) == self.identity:
                os.unlink(self.address)


class Claim(Protocol):
    """A socket that listened before there was a configuration."""

    def take(self) -> int:
        """Give its descriptor for good."""


def open_listeners(
    guix: Iterable[Address],
    native: Iterable[UnixAddress],
    *,
    take_over: bool = False,
    claims: Mapping[str, Claim] | None = None,
) -> tuple[Listener, ...]:
    """Open every address, or none.

    Args:
        guix: Where Guix clients are served.
        native: Where native clients are served.
        take_over: Whether a socket file is replaced although a process listens on
            it, as the C++ daemon does; that process keeps the clients it has.
        claims: Sockets that listen already, by addresses; they are taken if wanted.

    Raises:
        StoreError: An address cannot be opened; reasons ``address-in-use`` and
            ``cannot-listen``.
    """
    wanted = [(address, Dialect.GUIX) for address in guix]
    wanted += [(address, Dialect.NATIVE) for address in native]
    left = dict(claims or {})
    opened: list[Listener] = []
    try:
        for address, dialect in wanted:
            claim = left.pop(str(address), None)
            if claim is None:
                opened.extend(_open(address, dialect, take_over=take_over))
            else:
                opened.append(_take(claim, address, dialect))
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    return tuple(opened)


def _take(claim: Claim, address: Address, dialect: Dialect) -> Listener:
    sock = socket.socket(fileno=claim.take())
    sock.setblocking(False)
    if isinstance(address, UnixAddress):
        return Listener(sock, dialect, address.path, _identity(address.path))
    return Listener(sock, dialect, str(TcpAddress(*sock.getsockname()[:2])))


def _open(address: Address, dialect: Dialect, *, take_over: bool) -> list[Listener]:
    try:
        if isinstance(address, UnixAddress):
            return [_open_unix(address.path, dialect, take_over=take_over)]
        return _open_tcp(address, dialect)
    except OSError as error:
        reason = "address-in-use" if error.errno == errno.EADDRINUSE else "cannot-listen"
        text = error.strerror or str(error)
        raise StoreError(f"cannot listen on '{address}': {text}", reason=reason) from error


def _open_unix(path: str, dialect: Dialect, *, take_over: bool) -> Listener:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _remove_old(path, take_over=take_over)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_name(path) as name:
            sock.bind(name)
        # Everybody may connect who can reach the directory; its mode decides. The
        # socket accepts nobody before `listen`, so its mode is right in time.
        os.chmod(path, 0o666)  # noqa: S103
        sock.listen(BACKLOG)
        sock.setblocking(False)
        return Listener(sock, dialect, path, _identity(path))
    except BaseException:
        sock.close()
        raise


@contextlib.contextmanager
def short_name(path: str) -> Iterator[str]:
    """Name a socket file within the length the kernel takes.

    A longer one is reached through a descriptor of its directory, which only
    helps when its last component is short.
    """
    if len(os.fsencode(path)) <= LONGEST_SUN_PATH:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{fd}/{name}"
        if len(os.fsencode(short)) > LONGEST_SUN_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        yield short
    finally:
        os.close(fd)


def _remove_old(path: str, *, take_over: bool) -> None:
    """Remove a socket file, unless it may not be taken from a process that listens on it."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file of that name which is no socket")
    if take_over:
        os.unlink(path)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_name(path) as name:
        probe.setblocking(False)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # Its backlog is full: somebody listens, and is busy.
    raise OSError(errno.EADDRINUSE, "another daemon listens there")


def _open_tcp(address: TcpAddress, dialect: Dialect) -> list[Listener]:
    found = socket.getaddrinfo(
        address.host,
        address.port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV | socket.AI_ADDRCONFIG,
    )
    # The reference takes the first result; so the same name leads to the same address.
    family, kind, protocol, _, target = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return [Listener(sock, dialect, str(TcpAddress(*sock.getsockname()[:2])))]


def inherited_listeners(environment: Mapping[str, str], pid: int) -> tuple[Listener, ...]:
    """Take the sockets a service manager opened for us (``LISTEN_FDS``).

    A socket whose name in ``LISTEN_FDNAMES`` is ``native`` serves native clients;
    every other serves Guix clients, as units written for the C++ daemon expect.

    Raises:
        StoreError: What was handed over are no listening stream sockets.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return ()
    count = environment.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit()):
        return ()
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (int(count[:6]) - len(names))
    return tuple(
        _inherit(FIRST_INHERITED_FD + index, names[index]) for index in range(int(count[:6]))
    )


def _inherit(fd: int, name: str) -> Listener:
    try:
        sock = socket.socket(fileno=fd)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StoreError(
            f"inherited descriptor {fd} is no socket: {error.strerror}", reason="cannot-listen"
        ) from error
    if not listening or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise StoreError(
            f"inherited descriptor {fd} is no listening stream socket", reason="cannot-listen"
        )
    sock.set_inheritable(False)
    sock.setblocking(False)
    dialect = Dialect.NATIVE if name == Dialect.NATIVE else Dialect.GUIX
    return Listener(sock, dialect, _describe(sock))


def _describe(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return os.fsdecode(name) if isinstance(name, str | bytes) else "unix"
    return str(TcpAddress(name[0], name[1]))


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
