# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server on the loopback interface that answers as a test wants."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEXT = b"content of a file\n" * 1000


@dataclass(slots=True)
class Site:
    """What the server has, and what it was asked.

    Attributes:
        port: Where it listens.
        files: What answers for each path; a path without one is not found.
        asked: The paths, in order, each with its ``Range``.
    """

    port: int = 0
    files: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Give the URL of a path."""
        return f"http://{host}:{self.port}{path}"


def content(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer with these bytes, or the part that is asked for."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        start = _start(request)
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.send_header("ETag", '"one"')
        request.end_headers()
        request.wfile.write(data[start:])

    return answer


def cut(data: bytes, at: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Break the connection after some bytes each time, so that only resuming gets it all."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        start = _start(request)
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        request.wfile.write(data[start : start + at])
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)

    return answer


def moved(location: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer that it is elsewhere."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def _start(request: BaseHTTPRequestHandler) -> int:
    wanted = request.headers.get("Range", "")
    return int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0


@contextmanager
def serve(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """Run the server, over TLS if there is a context for it."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Range", "")))
            answer = site.files.get(self.path)
            if answer is None:
                self.send_error(404)
            else:
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # clients that go away are part of the tests

    with Server((host, 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        site.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
