# SPDX-License-Identifier: GPL-3.0-or-later
"""One URL into a file, from real servers that are slow, hostile or secure."""

import io
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from builder.download import dial, fetch
from builder.download.dial import Dialer
from builder.download.fetch import Fetcher, FetchError
from builder.download.progress import Progress
from builder.download.urls import Nearness
from tests.builder.real import web
from tests.builder.real.web import TEXT

Get = Callable[..., bytes]


@pytest.fixture
def said() -> list[str]:
    """What the fetcher said."""
    return []


@pytest.fixture
def get(tmp_path: Path, said: list[str]) -> Iterator[Get]:
    """Fetches a URL and gives what is in the file."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    def run(url: str, limit: int = 0, **proxies: str) -> bytes:
        fetcher = Fetcher(Dialer(proxies), limit, said.append, sleep=lambda _: None)
        progress = Progress(io.StringIO(), "file", url, traces=True, clock=lambda: 0.0)
        fetcher.fetch(url, fd, progress)
        return (tmp_path / "file").read_bytes()

    yield run
    os.close(fd)


def test_a_server_that_forgets_ranges_is_asked_anew(get: Get):
    """It sends everything, and everything is taken, once."""
    with web.serve() as site:
        broken = iter([web.cut(TEXT, 100)])

        def answer(request: BaseHTTPRequestHandler) -> None:
            del request.headers["Range"]
            next(broken, web.content(TEXT))(request)

        site.files["/x"] = answer
        assert get(site.url("/x")) == TEXT


def test_attempts_are_counted(get: Get):
    """A server that breaks off each time is given up, unless it gives more each time."""
    with web.serve() as site:
        site.files["/x"] = web.cut(TEXT, 0)
        with pytest.raises(FetchError, match="ended after 0 of"):
            get(site.url("/x"))
        assert len(site.asked) == fetch.VAIN_ATTEMPTS
        site.asked.clear()
        site.files["/x"] = web.cut(TEXT, len(TEXT) // 8)
        assert get(site.url("/x")) == TEXT
        assert len(site.asked) == 8


def test_what_is_not_there_is_asked_for_once(get: Get):
    """A second time would not help."""
    with web.serve() as site:
        with pytest.raises(FetchError, match="404"):
            get(site.url("/x"))
        assert len(site.asked) == 1


def test_a_trickle_is_no_download(get: Get, monkeypatch: pytest.MonkeyPatch):
    """Progress would keep the daemon's patience up for ever."""
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.05)

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"x")
        except OSError:
            return

    monkeypatch.setattr(fetch, "STALL_BYTES", 1 << 40)
    with web.serve() as site:
        site.files["/x"] = answer
        with pytest.raises(FetchError, match="bytes in"):
            get(site.url("/x"))


def test_an_answer_has_a_deadline(get: Get, monkeypatch: pytest.MonkeyPatch):
    """However slowly a server feeds it, header by header."""
    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(fetch, "VAIN_ATTEMPTS", 1)

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.connection.settimeout(10)
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        request.connection.recv(1)  # until the other side has gone

    with web.serve() as site:
        site.files["/x"] = answer
        with pytest.raises(FetchError, match="no answer within"):
            get(site.url("/x"))


def test_a_redirection_does_not_lead_nearer(get: Get, monkeypatch: pytest.MonkeyPatch):
    """From the internet to the machine itself, or what serves it its secrets."""

    def pretend(address: str) -> Nearness:
        return Nearness.INTERNET if address == "127.0.0.2" else Nearness.MACHINE

    monkeypatch.setattr(dial, "nearness", pretend)
    with web.serve(host="127.0.0.2") as far, web.serve() as near:
        near.files["/secret"] = web.content(TEXT)
        far.files["/x"] = web.moved(near.url("/secret"))
        with pytest.raises(FetchError, match="is not followed"):
            get(far.url("/x", "127.0.0.2"))
        assert near.asked == []
        near.files["/y"] = web.moved(near.url("/secret"))
        assert get(near.url("/y")) == TEXT


def test_a_limit_holds_for_what_servers_do_not_announce(get: Get):
    """They may send more than they said, or say nothing."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(TEXT)

    with web.serve() as site:
        site.files["/x"] = answer
        with pytest.raises(FetchError, match="more than 100 bytes"):
            get(site.url("/x"), limit=100)


def test_a_proxy_is_asked_for_the_whole_url(get: Get):
    """It gets what a server would not."""
    with web.serve() as proxy:
        proxy.files["http://example.org/x?y"] = web.content(TEXT)
        url = f"127.0.0.1:{proxy.port}"
        assert get("http://example.org/x?y", http_proxy=url) == TEXT


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 with its key, which no authority has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    what = ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-keyout", f"{path}", "-out", f"{tmp_path}/public.pem"]
    subprocess.run([*command.split(), *what, *files], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (tmp_path / "public.pem").read_bytes())
    return path


def test_a_certificate_that_proves_nothing_is_only_noted(
    get: Get, certificate: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    """It is the content that counts; but a password is for who has proved its name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    seen: list[str | None] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers.get("Authorization"))
        web.content(TEXT)(request)

    with web.serve(tls=context) as site:
        site.files["/x"] = answer
        url = f"https://user:secret@127.0.0.1:{site.port}/x"
        assert get(url) == TEXT
        assert seen == [None]
        assert "is no proof" in said[0]
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}")
        assert get(url) == TEXT
        assert seen[1] == "Basic dXNlcjpzZWNyZXQ="
        assert len(said) == 1
