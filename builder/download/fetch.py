# SPDX-License-Identifier: GPL-3.0-or-later
"""One URL into a file: connections that break are taken up again where they broke.

Entry point: `Fetcher`.
"""

import os
import re
import signal
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from builder.download.dial import Connection, Dialer, TooNearError
from builder.download.progress import Progress
from builder.download.urls import Nearness, UrlError, redirect

ATTEMPTS, VAIN_ATTEMPTS = 50, 3
"""How often a URL is tried in all, and in a row without a byte more than before."""
PAUSE_SECONDS = 1.0
ANSWER_SECONDS = 60
STALL_SECONDS, STALL_BYTES = 60.0, 4096
"""A server must send so many bytes in so many seconds: it could otherwise hold us for ever."""

_CHUNK = 256 * 1024
_MOVED = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 429, 500, 502, 503, 504)
_OK, _PARTIAL, _BAD_RANGE = 200, 206, 416
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class FetchError(Exception):
    """A URL gave nothing; the message says why."""


class _BrokenError(FetchError):
    """The same, but the next attempt may do better."""


class Answer(NamedTuple):
    """An answer with a body.

    Attributes:
        response: To be read.
        start: Where in the file the body belongs.
        size: The bytes of the whole file, None where they are not known.
    """

    response: HTTPResponse
    start: int
    size: int | None


class Fetcher:
    """Fetches URLs.

    Args:
        dialer: Makes connections.
        limit: The most bytes of a file; 0 for any number.
        say: Takes lines for the log.
        sleep: Waits so many seconds before the next attempt.
    """

    def __init__(
        self,
        dialer: Dialer,
        limit: int,
        say: Callable[[str], object],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._dialer = dialer
        self._limit = limit
        self._say = say
        self._sleep = sleep
        self._validator = ""

    def fetch(self, url: str, file: int, progress: Progress) -> None:
        """Fetch a URL.

        Args:
            url: Of HTTP or HTTPS.
            file: A descriptor of the file, whose content is replaced.
            progress: What to tell.

        Raises:
            FetchError: There is nothing to be had.
        """
        os.ftruncate(file, 0)
        self._validator = ""
        vain = 0
        for _ in range(1, ATTEMPTS):
            had = os.fstat(file).st_size
            try:
                self._attempt(url, file, progress)
            except _BrokenError as error:
                vain = 0 if os.fstat(file).st_size > had else vain + 1
                if vain == VAIN_ATTEMPTS:
                    raise
                self._say(f"{error}; trying again")
                self._sleep(PAUSE_SECONDS * (vain + 1))
            else:
                return
        self._attempt(url, file, progress)

    def _attempt(self, url: str, file: int, progress: Progress) -> None:
        have = os.fstat(file).st_size
        try:
            with self._answered(url, have) as answer:
                self._check_limit(answer.size or 0)
                progress.start(answer.size)
                os.ftruncate(file, answer.start)
                os.lseek(file, answer.start, os.SEEK_SET)
                received = self._copy(answer, file, progress)
        except (TooNearError, UrlError) as error:
            raise FetchError(str(error)) from error
        except (OSError, HTTPException) as error:
            raise _BrokenError(f"{error}" or repr(error)) from error
        if answer.size is not None and received != answer.size:
            raise _BrokenError(f"the connection ended after {received} of {answer.size} bytes")
        progress.finish(received)

    def _copy(self, answer: Answer, file: int, progress: Progress) -> int:
        received = answer.start
        stall = _Stall(received)
        while chunk := answer.response.read1(_CHUNK):
            received += len(chunk)
            self._check_limit(received)
            view = memoryview(chunk)
            while view:
                view = view[os.write(file, view) :]
            stall.check(received)
            progress.report(received)
        return received

    def _check_limit(self, size: int) -> None:
        if self._limit and size > self._limit:
            raise FetchError(f"more than {self._limit} bytes, which is the limit")

    @contextmanager
    def _answered(self, url: str, have: int) -> Iterator[Answer]:
        """Ask until there is an answer that is no redirection."""
        nearest, count = Nearness.MACHINE, 0
        while True:
            parts = urlsplit(url)
            with _deadline(ANSWER_SECONDS):
                connection, nearest = self._dial(parts, nearest)
                try:
                    response = self._ask(connection, parts, have)
                except BaseException:
                    connection.close()
                    raise
            try:
                if response.status not in _MOVED:
                    yield self._judge(response, have)
                    return
                count += 1
                url = redirect(url, response.headers.get("Location", ""), count)
                self._say(f"following redirection to `{url}'...")
            finally:
                response.close()
                connection.close()

    def _dial(self, url: SplitResult, nearest: Nearness) -> tuple[Connection, Nearness]:
        try:
            return self._dialer.dial(url, nearest)
        except ssl.SSLCertVerificationError as error:
            self._say(f"the certificate of {url.hostname} is no proof: {error.verify_message}")
            self._dialer.trust_anybody()
            return self._dialer.dial(url, nearest)

    def _ask(self, connection: Connection, url: SplitResult, have: int) -> HTTPResponse:
        target = urlunsplit(("", "", url.path or "/", url.query, ""))
        host = url.netloc.rpartition("@")[2]
        headers = {
            "Host": host,
            "User-Agent": "storedaemon",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        if self._dialer.proxy_for(url) is not None and url.scheme == "http":
            target = urlunsplit((url.scheme, host, url.path or "/", url.query, ""))
        # Nobody but who has proved its name may see a password over a secure connection.
        if url.username and (url.scheme == "http" or self._dialer.verified):
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._validator:
                headers["If-Range"] = self._validator
        connection.request("GET", target, headers=headers)
        return connection.getresponse()

    def _judge(self, response: HTTPResponse, have: int) -> Answer:
        """Take an answer, or say why not.

        Raises:
            FetchError: It has no file.
        """
        status = response.status
        if status == _OK:
            self._validator = _validator(response)
            return Answer(response, 0, response.length)
        if status == _PARTIAL and have:
            return _partial(response, have)
        said = f"{status} {response.reason}".strip()
        if status == _BAD_RANGE and have:
            raise _BrokenError(f"the server does not know how to go on: {said}")
        raise (_BrokenError if status in _TEMPORARY else FetchError)(f"the server answers {said}")


def _validator(response: HTTPResponse) -> str:
    """Give what tells one version of a file from another."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else str(response.headers.get("Last-Modified", ""))


def _partial(response: HTTPResponse, have: int) -> Answer:
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) > have:
        raise _BrokenError("the server goes on at another place")
    size = None if match[2] == "*" else int(match[2])
    return Answer(response, int(match[1]), size)


class _Stall:
    """Watches that bytes keep coming."""

    def __init__(self, received: int) -> None:
        self._received = received
        self._since = time.monotonic()

    def check(self, received: int) -> None:
        """Take note of how many there are.

        Raises:
            FetchError: They have become too slow.
        """
        now = time.monotonic()
        if now - self._since < STALL_SECONDS:
            return
        if received - self._received < STALL_BYTES:
            raise FetchError(f"only {received - self._received} bytes in {STALL_SECONDS:g} seconds")
        self._received, self._since = received, now


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Limit the time of what is inside, however slowly anybody feeds it.

    Raises:
        TimeoutError: It has taken too long.
    """

    def expire(_number: int, _frame: object) -> None:
        raise TimeoutError(f"no answer within {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
