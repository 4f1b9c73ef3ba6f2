# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a file may be had, and which redirections are followed."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from builder.download.request import DOWNLOAD, Request, decode, encode
from builder.download.urls import (
    MAX_REDIRECTIONS,
    Nearness,
    UrlError,
    candidates,
    nearness,
    redirect,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ARCHIVE = "https://web.archive.org/web/20260102030405/"
REQUEST = Request(
    DOWNLOAD,
    "/s/x.drv",
    "/s/x-file",
    "file",
    '"https://a/file"',
    hash16="00ff",
    hash32="0abc",
    content_mirrors=("https://c/{name}/{algorithm}/{base16}/{base32}/{other}",),
)
MIRRORS = '((gnu "https://m/gnu/" "ftp://n"))'
BY_CONTENT = "https://c/file/sha256/00ff/0abc/{other}"


def test_a_request_survives_its_file():
    """What the daemon writes is what the downloader reads."""
    request = replace(REQUEST, proxies=(("http_proxy", "http://p:1"),), executable=True)
    assert decode(encode(request)) == request


def test_what_a_derivation_names_comes_first():
    """Then what the daemon's owner knows, and the archive of the web."""
    found = candidates(REQUEST, "", NOW)
    assert found == ["https://a/file", BY_CONTENT, f"{ARCHIVE}https://a/file"]


def test_mirrors_stand_for_several():
    """With one slash between, whatever either has."""
    request = replace(REQUEST, url='("mirror://gnu//x/y.tar" "https://a/file")')
    found = candidates(request, MIRRORS, NOW)
    assert found[:3] == ["https://m/gnu/x/y.tar", "ftp://n/x/y.tar", "https://a/file"]


@pytest.mark.parametrize(
    ("methods", "count"),
    [("#f", 3), ("(upstream)", 1), ("(content-addressed-mirrors internet-archive)", 2), ("()", 0)],
)
def test_methods_limit_what_is_tried(methods: str, count: int):
    """As in tests of the ways around a dead server."""
    assert len(candidates(replace(REQUEST, methods=methods), "", NOW)) == count


@pytest.mark.parametrize(
    "url",
    [
        '"file:///etc/shadow"',
        '"FILE:/x"',
        '"/etc/shadow"',
        '("https://a/x" "file:///x")',
        '"mirror://unknown/x"',
        "()",
        "symbol",
        '(("https://a"))',
        "",
    ],
)
def test_unusable_urls_are_refused(url: str):
    """Local files, and what is no URL at all."""
    with pytest.raises(UrlError):
        candidates(replace(REQUEST, url=url), MIRRORS, NOW)


def test_a_url_cannot_break_a_line():
    """Neither of a request nor of what the daemon's clients read."""
    [url, *_] = candidates(replace(REQUEST, url='"http://a/x\\r\\nEvil: 1 y"'), "", NOW)
    assert url == "http://a/x%0D%0AEvil:%201%20y"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/y", "https://a/y"),
        ("y?q=1", "https://a/d/y?q=1"),
        ("http://b/z", "http://b/z"),
        ("//b/z", "https://b/z"),
    ],
)
def test_redirections_are_followed_on_the_web(location: str, target: str):
    """Also from HTTPS to HTTP: what is known is the content."""
    assert redirect("https://a/d/x", location, 1) == target


@pytest.mark.parametrize(
    "location", ["file:///x", "ftp://a/x", "", "javascript:x", "http://[", "http:"]
)
def test_other_redirections_are_not(location: str):
    """There is no way from the web to anything else."""
    with pytest.raises(UrlError):
        redirect("https://a/d/x", location, 1)


def test_redirections_end():
    """However patient the server is."""
    with pytest.raises(UrlError):
        redirect("https://a/", "/", MAX_REDIRECTIONS + 1)


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1", Nearness.MACHINE),
        ("::1", Nearness.MACHINE),
        ("::ffff:127.0.0.1", Nearness.MACHINE),
        ("0.0.0.0", Nearness.MACHINE),
        ("169.254.169.254", Nearness.MACHINE),
        ("fe80::1%eth0", Nearness.MACHINE),
        ("10.0.2.2", Nearness.MACHINE),
        ("fd00::2", Nearness.MACHINE),
        ("192.168.1.1", Nearness.SITE),
        ("fd12::1", Nearness.SITE),
        ("8.8.8.8", Nearness.INTERNET),
        ("2a00::1", Nearness.INTERNET),
    ],
)
def test_addresses_are_near_or_far(address: str, near: Nearness):
    """Whatever the host hears on is near, also through slirp4netns and in mapped forms."""
    assert nearness(address) is near
