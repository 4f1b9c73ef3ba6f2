# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a file may be had, in which order, and which redirections are followed. Pure.

Certificates and downgrades from HTTPS do not matter for what is made, whose hash is known.
What matters is that nobody uses the downloader to get at what only this machine reaches:
a redirection never leads nearer to it than where it comes from.

Entry points: `candidates`, `redirect`, `nearness`.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from urllib.parse import quote, urljoin, urlsplit

from builder.download.request import Request
from builder.download.scheme import Datum, SchemeError, Symbol, read

WEB = ("http", "https")
MAX_URLS = 1000
MAX_URL = 16384
MAX_REDIRECTIONS = 10

_SAFE = "!#$%&'()*+,/:;=?@[]~"
"""What a URL may hold beside letters, digits and ``-._``."""


class UrlError(ValueError):
    """The derivation asks for what there is no way to download."""


class Nearness(IntEnum):
    """How far from this machine an address is; a redirection never leads to a lower one."""

    MACHINE = 0
    SITE = 1
    INTERNET = 2


# With a network of its own, the downloader finds the host here.
_UPLINK = (ipaddress.ip_network("10.0.2.0/24"), ipaddress.ip_network("fd00::/64"))


def nearness(address: str) -> Nearness:
    """Tell how far an IP address is.

    Raises:
        ValueError: It is none.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast:
        return Nearness.MACHINE
    if any(ip in network for network in _UPLINK if network.version == ip.version):
        return Nearness.MACHINE
    return Nearness.INTERNET if ip.is_global else Nearness.SITE


def redirect(url: str, location: str, count: int) -> str:
    """Give the URL that a redirection leads to.

    Args:
        url: Where it came from.
        location: What the server said.
        count: How many redirections there were, with this one.

    Raises:
        UrlError: It is not followed.
    """
    if count > MAX_REDIRECTIONS:
        raise UrlError(f"more than {MAX_REDIRECTIONS} redirections")
    if not location or len(location) > MAX_URL:
        raise UrlError("a redirection to nowhere")
    try:
        target = clean(urljoin(url, location))
    except ValueError as error:
        raise UrlError(f"a redirection to `{clean(location)}', which is no URL") from error
    if not is_web(target):
        raise UrlError(f"a redirection to `{target}', which is not on the web")
    return target


def is_web(url: str) -> bool:
    """Tell whether a URL is one of HTTP that names a host."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in WEB and bool(parts.hostname)


def clean(url: str) -> str:
    """Escape what no URL may hold, so that it cannot break up a request or a line of output."""
    return quote(url, safe=_SAFE)


def candidates(request: Request, mirrors: str, now: datetime) -> list[str]:
    """List the URLs at which a file may be, the likeliest first.

    Args:
        request: What is wanted.
        mirrors: What ``mirror://`` URLs mean, as Scheme data; empty for nothing.
        now: The time; an archive of the web wants to know.

    Raises:
        UrlError: A URL is malformed or of a local file, or names no known mirror.
    """
    table = read_mirrors(mirrors)
    own = [each for url in read_urls(request.url) for each in expand_mirrors(url, table)]
    methods = read_methods(request.methods)
    found: list[str] = []
    if methods is None or "upstream" in methods:
        found += own
    if methods is None or "content-addressed-mirrors" in methods:
        found += (expand(template, request) for template in request.content_mirrors)
    if methods is None or "internet-archive" in methods:
        found += archived(own, now)
    return list(dict.fromkeys(found))


def read_urls(text: str) -> list[str]:
    """Read the attribute ``url``: a string, or a list of strings.

    Raises:
        UrlError: It is something else, or a URL is unusable.
    """
    datum = _read(text, "url")
    urls = datum if isinstance(datum, list) else [datum]
    if not urls or len(urls) > MAX_URLS:
        raise UrlError(f"a list of {len(urls)} URLs")
    return [_checked(url) for url in urls]


def _checked(url: Datum) -> str:
    if not isinstance(url, str) or len(url) > MAX_URL:
        raise UrlError("a URL must be a string")
    url = clean(url)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme is None:
        raise UrlError(f"URL `{url}' can't be decoded")
    if scheme[1].lower() == "file":
        raise UrlError(f"URL `{url}' is for a local file")
    return url


def _read(text: str, what: str) -> Datum:
    try:
        return read(text)
    except SchemeError as error:
        raise UrlError(f"the attribute `{what}' is malformed: {error}") from error


def read_mirrors(text: str) -> dict[str, tuple[str, ...]]:
    """Read a list of lists: a symbol, and the URLs that it stands for.

    Raises:
        UrlError: It is something else.
    """
    datum = _read(text, "mirrors") if text else []
    if not isinstance(datum, list):
        raise UrlError("the list of mirrors is malformed")
    return dict(_mirror(entry) for entry in datum)


def _mirror(entry: Datum) -> tuple[str, tuple[str, ...]]:
    match entry:
        case [Symbol(name), *urls]:
            return name, tuple(_checked(url) for url in urls)
    raise UrlError("the list of mirrors is malformed")


def read_methods(text: str) -> frozenset[str] | None:
    """Read the attribute ``download-methods``: None where everything may be tried.

    Raises:
        UrlError: It is no list of symbols.
    """
    datum = _read(text, "download-methods") if text else False
    if datum is False:
        return None
    if not isinstance(datum, list):
        raise UrlError("the attribute `download-methods' must be a list")
    return frozenset(each.name for each in datum if isinstance(each, Symbol))


def expand_mirrors(url: str, mirrors: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Give the URLs that a URL stands for: itself, or those of a mirror.

    Raises:
        UrlError: No such mirror is known.
    """
    if not url.lower().startswith("mirror://"):
        yield url
        return
    kind, _, path = url[len("mirror://") :].partition("/")
    if not mirrors.get(kind):
        raise UrlError(f"unsupported URL mirror kind `{kind}' in `{url}'")
    for mirror in mirrors[kind]:
        yield f"{mirror.rstrip('/')}/{path.strip('/')}"


def expand(template: str, request: Request) -> str:
    """Fill in a template: ``{name}``, ``{algorithm}``, ``{base16}`` and ``{base32}``."""
    values = {
        "name": quote(request.name, safe="+"),
        "algorithm": request.algorithm,
        "base16": request.hash16,
        "base32": request.hash32,
    }
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def archived(urls: Sequence[str], now: datetime) -> list[str]:
    """Give the place where an archive of the web may have the first of some URLs."""
    date = now.strftime("%Y%m%d%H%M%S")
    return [f"https://web.archive.org/web/{date}/{url}" for url in urls[:1] if is_web(url)]
