# SPDX-License-Identifier: GPL-3.0-or-later
"""What the downloader is to do: made by the daemon, handed over as a file of JSON."""

import json
from dataclasses import asdict, dataclass

DOWNLOAD, GIT_DOWNLOAD = "download", "git-download"


@dataclass(frozen=True, slots=True)
class Request:
    """One download.

    Attributes:
        kind: `DOWNLOAD` or `GIT_DOWNLOAD`.
        derivation: The derivation, for messages.
        output: The file or directory to make.
        name: Its name in the store, without hash.
        url: A string, or a list of strings, as Scheme writes them.
        mirrors: A file with what ``mirror://`` URLs mean; empty for none.
        methods: A list of symbols: the only ways that may be tried; empty for all.
        executable: Whether the file is a program.
        commit: Of a repository; empty for a file.
        recursive: Whether submodules belong to it.
        algorithm: That of the hash.
        hash16: The hash in base 16.
        hash32: The hash as Guix writes it in base 32.
        flat: Whether the hash is that of the file's bytes.
        content_mirrors: Templates of URLs that name content; see `urls.expand`.
        traces: Whether progress is written for programs.
        limit: The most bytes of a file; 0 for any number.
        proxies: Variables such as ``https_proxy``, by their names in lower case.
        git: The program.
    """

    kind: str
    derivation: str
    output: str
    name: str
    url: str
    mirrors: str = ""
    methods: str = ""
    executable: bool = False
    commit: str = ""
    recursive: bool = False
    algorithm: str = "sha256"
    hash16: str = ""
    hash32: str = ""
    flat: bool = True
    content_mirrors: tuple[str, ...] = ()
    traces: bool = False
    limit: int = 0
    proxies: tuple[tuple[str, str], ...] = ()
    git: str = ""


def encode(request: Request) -> bytes:
    """Write a request."""
    return json.dumps(asdict(request)).encode()


def decode(data: bytes) -> Request:
    """Read a request that `encode` wrote."""
    fields = json.loads(data)
    fields["content_mirrors"] = tuple(fields["content_mirrors"])
    fields["proxies"] = tuple((name, value) for name, value in fields["proxies"])
    return Request(**fields)
