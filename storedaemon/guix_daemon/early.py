# SPDX-License-Identifier: GPL-3.0-or-later
"""Listening before anything else: scripts start guix-daemon and connect at once.

The C++ daemon listens some 5 ms after it was started, an interpreter with a few modules
takes ten times as long. So ``contrib/guix-daemon`` starts one without `site`, and this
module, which imports nothing that is not there yet, claims the sockets that a plain
command line names. All else is read and judged later; what the configuration then does not
want, or an error leaves unused, is as it was before. Whatever is unusual, or goes wrong
here, is left to `storedaemon.sockets`. Entry point: `run`.
"""

import _socket  # `socket` takes as long as the interpreter
import os
import stat
import sys

TYPE_CHECKING = False  # in `typing`, which takes as long
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

BACKLOG = 1024
DEFAULT_PORT = "44146"
LONGEST_SUN_PATH = 107

# Options after which there is no daemon, or not yet, and those that may be `listen`.
_ASIDE = ("help", "usage", "version", "program-name", "HANG")


class Claim:
    """A socket that listens.

    Args:
        sock: The socket.
        path: Its file; empty for TCP.
        before: Where the file is that was there before; empty for none.
    """

    def __init__(self, sock: _socket.socket, path: str = "", before: str = "") -> None:
        self._socket = sock
        self._path = path
        self._before = before

    def take(self) -> int:
        """Give the descriptor for good; who listened there before has lost the place."""
        if self._before:
            _unlink(self._before)
        self._path = ""
        return self._socket.detach()

    def give_up(self) -> None:
        """Have everything as it was, unless the socket was taken."""
        self._socket.close()
        if self._path and self._before:
            os.rename(self._before, self._path)
        elif self._path:
            _unlink(self._path)


def run() -> None:
    """Claim the sockets, then be the program; its exit status is the process's."""
    claims = claim(sys.argv[1:], os.environ)
    try:
        # Each of these takes as long as all before.
        import signal  # noqa: PLC0415
        import site  # noqa: PLC0415

        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
        site.main()
        from storedaemon.guix_daemon.main import main  # noqa: PLC0415

        status = main(claims=claims)
    finally:
        for each in claims.values():
            each.give_up()
    sys.exit(status)


def _end(_number: int, _frame: object) -> "NoReturn":
    raise SystemExit(0)


def claim(words: "Sequence[str]", environment: "Mapping[str, str]") -> dict[str, Claim]:
    """Listen where a plain command line says, as far as that works.

    Args:
        words: The command line, without the program's name.
        environment: The process's.

    Returns:
        What listens, by addresses as `storedaemon.addresses` writes them.
    """
    claims: dict[str, Claim] = {}
    for text in _addresses(words, environment):
        address = text if "/" in text or ":" in text else f"{text}:{DEFAULT_PORT}"
        try:
            if address not in claims:
                claims[address] = _claim_file(address) if "/" in address else _claim_port(address)
        except (OSError, ValueError):
            continue  # tried again, and reported, when there is somebody to report it
    return claims


def _addresses(words: "Sequence[str]", environment: "Mapping[str, str]") -> list[str]:
    found = []
    for word in words:
        name, equals, value = word[2:].partition("=")
        if not (word.startswith("--") and name) or any(each.startswith(name) for each in _ASIDE):
            return []
        if name == "listen" and equals:
            found.append(value)
        elif "listen".startswith(name):
            return []
    if "LISTEN_FDS" in environment:
        return []
    state = environment.get("GUIX_STATE_DIRECTORY") or "/var/guix"
    return found or [f"{state}/daemon-socket/socket"]


def _claim_file(path: str) -> Claim:
    if os.path.normpath(path) != path or not path.startswith("/") or path.startswith("//"):
        raise ValueError
    if len(os.fsencode(path)) > LONGEST_SUN_PATH:
        raise ValueError
    before = _move_away(path)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    made = Claim(sock, path, before)
    try:
        sock.bind(path)
        os.chmod(path, 0o666)  # noqa: S103 - as in `storedaemon.sockets`
        sock.listen(BACKLOG)
    except OSError:
        made.give_up()
        raise
    return made


def _move_away(path: str) -> str:
    """Move a socket file aside, which another daemon may still use; say where it is.

    A process that is killed in between leaves it there; then it still is what was before.
    """
    before = f"{path}.before"
    left = _is_socket(before)
    if _is_socket(path) and (not left or _listens(path)):
        os.rename(path, before)
    elif left:
        _unlink(path)
    else:
        return ""
    return before


def _is_socket(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise ValueError
    return True


def _listens(path: str) -> bool:
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(path)
    except BlockingIOError:
        return True  # its backlog is full
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _claim_port(address: str) -> Claim:
    host, _, port = address.partition(":")
    if not (host and port.isdigit() and int(port)):
        raise ValueError
    flags = _socket.AI_PASSIVE | _socket.AI_NUMERICSERV | _socket.AI_ADDRCONFIG
    # As bytes, or Python imports what other scripts' names would need.
    found = _socket.getaddrinfo(host.encode(), port, 0, _socket.SOCK_STREAM, 0, flags)
    family, kind, protocol, _, target = found[0]
    sock = _socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.bind(target)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return Claim(sock)


def _unlink(path: str) -> None:
    try:  # noqa: SIM105 - `contextlib` is not there yet
        os.unlink(path)
    except FileNotFoundError:
        pass  # who made it has removed it
