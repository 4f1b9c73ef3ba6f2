# SPDX-License-Identifier: GPL-3.0-or-later
"""The downloader's program: a request in a file, a result at its output, an exit status."""

import hashlib
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

from builder.download import git
from builder.download.dial import Dialer
from builder.download.fetch import Fetcher, FetchError
from builder.download.progress import Progress
from builder.download.request import GIT_DOWNLOAD, Request, decode
from builder.download.urls import UrlError, candidates, is_web

MOST_WRONG = 2
_MAX_MIRRORS = 4 * 1024 * 1024
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def main() -> None:
    """Carry out the request whose file is named by the only argument."""
    with open(sys.argv[1], "rb") as file:
        request = decode(file.read())
    try:
        done = carry_out(request)
    except (UrlError, git.GitError, OSError) as error:
        say(f"error: {request.derivation}: {error}")
        done = False
    sys.exit(0 if done else 1)


def carry_out(request: Request) -> bool:
    """Carry out a request; tell whether there is anything at its output.

    Raises:
        UrlError: It asks for what cannot be downloaded.
        GitError: git has failed.
        OSError: There is no place for it, or its mirrors cannot be read.
    """
    say(f"Starting download of {request.output}")
    if request.kind == GIT_DOWNLOAD:
        git.fetch(request, os.getcwd(), say)
        return True
    return _download(request)


def say(text: str) -> None:
    """Write a line to the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _download(request: Request) -> bool:
    urls = candidates(request, _read_mirrors(request.mirrors), datetime.now(UTC))
    done = find(request, Fetcher(Dialer(dict(request.proxies)), request.limit, say), urls)
    if done and request.executable:
        _make_executable(request.output)
    if not done:
        say(f"failed to download `{request.output}' from {request.url}")
    return done


def find(request: Request, fetcher: Fetcher, urls: Iterable[str]) -> bool:
    """Go through URLs until one gives the right content; tell whether any has given some.

    If it is wrong everywhere, the first one's is left, for the daemon to tell what its hash
    is: then it is most likely the derivation that is wrong, so not all are tried.
    """
    wrong = 0
    for url in urls:
        say(f"\nFrom {url}...")
        if not is_web(url):
            say("skipping a URL with an unsupported scheme")
        elif not _fetch(request, fetcher, url):
            continue
        elif _is_right(request):
            return True
        else:
            say("the content is not what the derivation states")
            wrong += 1
            if wrong == 1:
                os.rename(request.output, _first_wrong(request))
            if wrong == MOST_WRONG:
                break
    with suppress(FileNotFoundError):
        os.unlink(request.output)
    if wrong:
        os.rename(_first_wrong(request), request.output)
    return wrong > 0


def _first_wrong(request: Request) -> str:
    return f"{request.output}.wrong"


def _fetch(request: Request, fetcher: Fetcher, url: str) -> bool:
    fd = os.open(request.output, _FLAGS, 0o644)
    try:
        fetcher.fetch(url, fd, _progress(request, url))
    except FetchError as error:
        say(f"download failed: {error}")
        return False
    finally:
        os.close(fd)
    return True


def _make_executable(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o755)
    finally:
        os.close(fd)


def _progress(request: Request, url: str) -> Progress:
    return Progress(sys.stdout, request.output, url, traces=request.traces, clock=time.monotonic)


def _is_right(request: Request) -> bool:
    """Tell whether a file has the right content, as far as that can be told before it is sealed."""
    if not request.flat or request.algorithm not in hashlib.algorithms_available:
        return True
    with open(request.output, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(request.algorithm))
    return digest.hexdigest() == request.hash16


def _read_mirrors(path: str) -> str:
    if not path:
        return ""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return file.read(_MAX_MIRRORS).decode(errors="replace")
