# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a daemon listens, as text and as data.

An address with a slash is the file name of a Unix socket; anything else is
``HOST`` or ``HOST:PORT`` for TCP, with the port that Guix clients assume.
Entry point: `parse_address`.
"""

import os.path
from dataclasses import dataclass

from store.errors import StoreError

DEFAULT_PORT = 44146


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket, by its absolute file name."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP socket; `host` is a name or a numeric address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str, base: str = "/") -> Address:
    """Read an address; a relative file name starts at `base`.

    Raises:
        StoreError: With reason ``invalid-address``; the text is neither form.
    """
    if "\0" in text:
        raise _invalid(text)
    if "/" in text:
        return UnixAddress(absolute_path(text, base))
    host, port = _split_port(text)
    if not host:
        raise _invalid(text)
    if not port:
        return TcpAddress(host, DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and 0 <= int(port[:6]) <= 65535):
        raise _invalid(text)
    return TcpAddress(host, int(port))


def absolute_path(path: str, base: str) -> str:
    """Make a file name absolute and plain, by its text alone."""
    # POSIX lets two leading slashes mean something else, so normpath keeps them.
    normal = os.path.normpath(os.path.join(base, path))
    return "/" + normal.lstrip("/")


def _split_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        if rest and not rest.startswith(":"):
            raise _invalid(text)
        return host, rest[1:]
    if text.count(":") > 1:
        return text, ""
    host, colon, port = text.partition(":")
    if colon and not port:
        raise _invalid(text)
    return host, port


def _invalid(text: str) -> StoreError:
    return StoreError(
        f"'{text}' is no address: write a file name with a slash, HOST, or HOST:PORT",
        reason="invalid-address",
    )
