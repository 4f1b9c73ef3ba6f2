# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to web servers, straight or through a proxy. Entry point: `Dialer`."""

import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import SplitResult, urlsplit

from builder.download.urls import Nearness, nearness

CONNECT_SECONDS = 20.0
READ_SECONDS = 60.0
_PORTS = {"http": 80, "https": 443}


class TooNearError(OSError):
    """A redirection leads nearer to this machine than where it came from."""


class Connection(HTTPConnection):
    """A connection whose socket is made elsewhere."""

    def __init__(self, host: str, port: int, connected: socket.socket) -> None:
        super().__init__(host, port)
        self.sock = connected

    def connect(self) -> None:
        """Refuse to connect anew.

        Raises:
            ConnectionError: Always.
        """
        raise ConnectionError("the connection has been closed")


class Dialer:
    """Makes connections.

    Args:
        proxies: Variables such as ``http_proxy`` by name.

    Attributes:
        verified: Whether the last server has proved its name.
    """

    def __init__(self, proxies: Mapping[str, str]) -> None:
        self._proxies = proxies
        self._context = ssl.create_default_context()
        self.verified = False

    def proxy_for(self, url: SplitResult) -> SplitResult | None:
        """Give the proxy through which a URL is to be fetched, if any."""
        text = self._proxies.get(f"{url.scheme}_proxy") or self._proxies.get("all_proxy", "")
        if not text or self._is_excepted(url.hostname or ""):
            return None
        return urlsplit(text if "://" in text else f"http://{text}")

    def _is_excepted(self, host: str) -> bool:
        excepted = self._proxies.get("no_proxy", "").replace(",", " ").split()
        return any(each == "*" or f".{host}".endswith(f".{each.lstrip('.')}") for each in excepted)

    def dial(self, url: SplitResult, nearest: Nearness) -> tuple[Connection, Nearness]:
        """Connect to the server of a URL.

        Args:
            url: The URL.
            nearest: How near to this machine the server may be.

        Returns:
            The connection, and how near the server is.

        Raises:
            OSError: It cannot be had.
        """
        self.verified = False
        host, port = url.hostname or "", url.port or _PORTS[url.scheme]
        proxy = self.proxy_for(url)
        if proxy is None:
            connected, near = _connect(host, port, nearest)
        else:
            near = _of_literal(host, nearest)
            connected, _ = _connect(proxy.hostname or "", proxy.port or 80, Nearness.MACHINE)
        try:
            connected.settimeout(READ_SECONDS)
            if proxy is not None and url.scheme == "https":
                _open_tunnel(connected, host, port)
            if url.scheme == "https":
                connected = self._secure(connected, host)
        except BaseException:
            connected.close()
            raise
        return Connection(host, port, connected), near

    def trust_anybody(self) -> None:
        """Let servers prove nothing from now on: it is the content that counts."""
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def _secure(self, connected: socket.socket, host: str) -> socket.socket:
        secured = self._context.wrap_socket(connected, server_hostname=host)
        self.verified = self._context.verify_mode is ssl.CERT_REQUIRED
        return secured


def _of_literal(host: str, nearest: Nearness) -> Nearness:
    """Judge a host that only a proxy can look up, which is possible if it is an address."""
    try:
        near = nearness(host)
    except ValueError:
        return max(nearest, Nearness.SITE)
    if near < nearest:
        raise TooNearError(f"a redirection to {host} is not followed")
    return near


def _connect(host: str, port: int, nearest: Nearness) -> tuple[socket.socket, Nearness]:
    error: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        near = nearness(str(address[0]))
        if near < nearest:
            error = TooNearError(f"a redirection to {host} ({address[0]}) is not followed")
            continue
        connected = socket.socket(family, kind, protocol)
        connected.settimeout(CONNECT_SECONDS)
        try:
            connected.connect(address)
        except OSError as failure:
            connected.close()
            error = failure
            continue
        return connected, near
    raise error


def _open_tunnel(connected: socket.socket, host: str, port: int) -> None:
    """Have a proxy connect through.

    Raises:
        OSError: It refuses.
    """
    name = f"[{host}]" if ":" in host else host
    connected.sendall(f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n".encode())
    response = HTTPResponse(connected, method="CONNECT")
    try:
        response.begin()
    except HTTPException as error:
        raise ConnectionError(f"the proxy answers nonsense: {error!r}") from error
    finally:
        response.close()
    if response.status != 200:
        raise ConnectionError(f"the proxy answers {response.status} {response.reason}")
