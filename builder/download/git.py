# SPDX-License-Identifier: GPL-3.0-or-later
"""A commit of a git repository into a directory, without anything that is git's.

Entry points: `plan`, pure, and `fetch`.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from builder.download.request import Request
from builder.download.urls import UrlError, read_urls

SCHEMES = ("http", "https", "git")
_COMMIT = re.compile(r"[0-9A-Za-z][0-9A-Za-z._/+-]{0,250}")


class GitError(Exception):
    """The commit could not be had; the message says why."""


class Plan(NamedTuple):
    """Commands to run in the directory, each without the name of the program.

    Attributes:
        prepare: First.
        shallow: To fetch the commit alone; where one fails, `full` are run instead.
        full: To fetch everything.
        finish: At last.
    """

    prepare: tuple[tuple[str, ...], ...]
    shallow: tuple[tuple[str, ...], ...]
    full: tuple[tuple[str, ...], ...]
    finish: tuple[tuple[str, ...], ...]


def plan(request: Request) -> Plan:
    """Plan a download.

    Raises:
        UrlError: The URL or the commit is unusable.
    """
    url, *more = read_urls(request.url)
    if more or urlsplit(url).scheme.lower() not in SCHEMES:
        raise UrlError(f"no repository can be fetched from `{url}'")
    if not _COMMIT.fullmatch(request.commit):
        raise UrlError(f"`{request.commit}' is no commit")
    submodules = (("submodule", "update", "--init", "--recursive"),) if request.recursive else ()
    return Plan(
        prepare=(
            ("init", "--quiet", "--initial-branch=main"),
            ("remote", "add", "--", "origin", url),
        ),
        shallow=(
            ("fetch", "--depth", "1", "--", "origin", request.commit),
            ("checkout", "--quiet", "FETCH_HEAD"),
        ),
        full=(
            ("fetch", "--tags", "--", "origin"),
            ("checkout", "--quiet", request.commit, "--"),
        ),
        finish=submodules,
    )


def environment(request: Request, home: str) -> dict[str, str]:
    """Give git's environment: no settings of the machine, and no way but the network's.

    The content's hash is known, so servers need not prove who they are.
    """
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSL_NO_VERIFY": "true",
        "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),
        # Curl takes them in lower case, where no header of a request can set them.
        **dict(request.proxies),
    }


def fetch(request: Request, home: str, say: Callable[[str], object]) -> None:
    """Fetch a commit into the output.

    Raises:
        UrlError: What is asked for is unusable.
        GitError: git has failed.
    """
    chosen = plan(request)
    os.mkdir(request.output)
    run = _Runner(request, environment(request, home))
    run.all(chosen.prepare)
    try:
        run.all(chosen.shallow)
    except GitError as error:
        say(f"{error}; fetching everything")
        run.all(chosen.full)
    run.all(chosen.finish)
    _remove_metadata(request.output)


class _Runner:
    def __init__(self, request: Request, variables: Mapping[str, str]) -> None:
        self._request = request
        self._variables = variables

    def all(self, commands: Sequence[Sequence[str]]) -> None:
        for command in commands:
            self._run(command)

    def _run(self, command: Sequence[str]) -> None:
        line = [self._request.git, "-c", "core.hooksPath=/dev/null", *command]
        done = subprocess.run(
            line, cwd=self._request.output, env=self._variables, check=False, timeout=None
        )
        if done.returncode != 0:
            raise GitError(f"`git {' '.join(command)}' failed with status {done.returncode}")


def _remove_metadata(top: str) -> None:
    """Delete every ``.git``: a directory at the top, files in submodules."""
    for directory, names, files in os.walk(top):
        if ".git" in names:
            names.remove(".git")
            shutil.rmtree(os.path.join(directory, ".git"))
        if ".git" in files:
            os.unlink(os.path.join(directory, ".git"))
