# SPDX-License-Identifier: GPL-3.0-or-later
"""The builders that are part of the daemon: `builtin:download` and `builtin:git-download`.

Where there is the program guix, its ``guix perform-download`` does them as with the C++
daemon: as a build user, in the host's root and network, straight into the store. Elsewhere
our own downloader does, in a container like any fixed output's. It also checks and repairs,
which takes a container since the output is there already.

Entry points: `Builtins`, which tells what can be served and how; `guix_command`,
`request_for`, `downloader_command` and `downloader_operations`. All of it is pure; see
`builder.toolkit` for what the machine has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from builder.container import Bind, Command, Directory, File, Operation
from builder.download.request import DOWNLOAD, GIT_DOWNLOAD, Request, encode
from builder.environment import octets, variables
from builder.options import BuildMode
from store import base32
from store.derivations import Derivation

NAMES = (DOWNLOAD, GIT_DOWNLOAD)
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")

_CODE = "/downloader"
_REQUEST = f"{_CODE}/request.json"
LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
_PROGRAMS = ("/usr", "/bin", "/lib", "/lib32", "/lib64")  # git is many programs, and a shell's
_CERTIFICATES = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates")
_START = (
    f"import sys; sys.path.insert(0, {_CODE!r}); from builder.download.main import main; main()"
)


class Manner(Enum):
    """How a derivation is built."""

    BUILDER = "its own builder"
    GUIX = "guix perform-download"
    DOWNLOADER = "our own downloader"


@dataclass(frozen=True, slots=True)
class Toolkit:
    """What our own downloader is made of.

    Attributes:
        python: The interpreter.
        shown: Directories of the host that it needs, read-only.
        code: Where the downloader's modules are.
        git: The program; empty where there is none that a container can have.
        certificates: Variables that say where certificates of authorities are.
    """

    python: str
    shown: tuple[str, ...]
    code: str
    git: str = ""
    certificates: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Builtins:
    """How built-in builders are served here.

    Attributes:
        guix: The program guix; empty where it is not, or may not be used.
        toolkit: For our own downloader; None where there is no container to run it in.
        content_mirrors: Templates of URLs by which content is named.
        limit: The most bytes of a download; 0 for any number.
    """

    guix: str = ""
    toolkit: Toolkit | None = None
    content_mirrors: tuple[str, ...] = ()
    limit: int = 0

    def names(self) -> list[str]:
        """Name those that clients are told of: what can be served, and downloads in any case.

        Without those Guix takes a daemon for too old, even where nothing is left to
        download. Where it cannot have git from us, it brings its own.
        """
        served = (name for name in NAMES if self._server_of(name, BuildMode.NORMAL) is not None)
        return sorted({DOWNLOAD, *served})

    def manner(self, derivation: Derivation, mode: BuildMode) -> Manner | None:
        """Tell how a derivation is built; None where nobody can."""
        if not derivation.is_builtin:
            return Manner.BUILDER
        return self._server_of(derivation.builder.partition(":")[2], mode)

    def _server_of(self, name: str, mode: BuildMode) -> Manner | None:
        if name not in NAMES:
            return None
        able = self.toolkit is not None and (name == DOWNLOAD or self.toolkit.git != "")
        if self.guix and not (able and mode is not BuildMode.NORMAL):
            return Manner.GUIX
        return Manner.DOWNLOADER if able else None


def guix_command(
    guix: str,
    drv: str,
    derivation: Derivation,
    environment: Mapping[str, str],
    *,
    store: str,
    directory: str,
    traces: bool,
) -> Command:
    """Give the command of ``guix perform-download``.

    It runs where the daemon does, so nothing that a client says may reach its
    interpreter: its environment is the daemon's, not the derivation's.

    Args:
        guix: The program.
        drv: The derivation's file.
        derivation: The same, read.
        environment: The daemon's.
        store: The store directory.
        directory: The working directory.
        traces: Whether progress is written for programs.
    """
    [output] = derivation.output_paths
    environment = {
        **environment,
        "NIX_STORE": store,
        "NIX_STORE_DIR": store,
        "PWD": directory,
        "_NIX_OPTIONS": f"print-extended-build-trace={int(traces)}\n",
    }
    return Command(
        program=octets(guix),
        arguments=tuple(map(octets, ("guix", "perform-download", drv, output))),
        environment=variables(environment),
        directory=directory,
    )


def request_for(
    builtins: Builtins,
    drv: str,
    derivation: Derivation,
    environment: Mapping[str, str],
    *,
    traces: bool,
) -> Request:
    """Say what the downloader is to do; the environment is that of an ordinary builder."""
    [output] = derivation.output_paths
    env, stated = derivation.env, derivation.outputs["out"]
    recursive, digest = stated.fixed_content()
    return Request(
        kind=derivation.builder.partition(":")[2],
        derivation=drv,
        output=output,
        name=output.rpartition("/")[2].partition("-")[2],
        url=env.get("url", ""),
        mirrors=env.get("mirrors", ""),
        methods=env.get("download-methods", ""),
        executable=env.get("executable") == "1",
        commit=env.get("commit", ""),
        recursive=env.get("recursive?", "#f").strip() not in ("", "#f"),
        algorithm=digest.algorithm.value,
        hash16=stated.hash,
        hash32=base32.encode(digest.value),
        flat=not recursive,
        content_mirrors=builtins.content_mirrors,
        traces=traces,
        limit=builtins.limit,
        proxies=_proxies(environment),
        git=builtins.toolkit.git if builtins.toolkit else "",
    )


def _proxies(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Pick the variables for proxies from a builder's environment."""
    return tuple((name, environment[name]) for name in PROXIES if environment.get(name))


def downloader_command(toolkit: Toolkit, directory: str) -> Command:
    """Give the command of our own downloader; nothing of a derivation is in it."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": directory, **dict(toolkit.certificates)}
    # -I keeps settings of the machine out, -S its packages.
    arguments = (toolkit.python, "-I", "-S", "-B", "-c", _START, _REQUEST)
    return Command(
        program=octets(toolkit.python),
        arguments=tuple(map(octets, arguments)),
        environment=variables(environment),
        directory=directory,
    )


def downloader_operations(toolkit: Toolkit, request: Request) -> Iterator[Operation]:
    """Give what a container needs for our own downloader."""
    shown = [*toolkit.shown, *(path for _, path in toolkit.certificates), *_CERTIFICATES]
    if request.kind == GIT_DOWNLOAD:
        shown += _PROGRAMS
    for path in _outermost(shown):
        yield Bind(path, path, optional=True)
    yield Bind("/etc/ld.so.cache", "/etc/ld.so.cache", optional=True)
    yield Directory(_CODE)
    yield Directory(f"{_CODE}/builder")
    yield File(f"{_CODE}/builder/__init__.py", b"")
    yield Bind(toolkit.code, f"{_CODE}/builder/download")
    yield File(_REQUEST, encode(request))


def _outermost(paths: list[str]) -> list[str]:
    """Leave out what lies below others."""
    unique = dict.fromkeys(paths)
    return [each for each in unique if not any(each.startswith(f"{top}/") for top in unique)]


def items_of(toolkit: Toolkit, store: str) -> list[str]:
    """Name the store items that hold the interpreter, whose closure it needs."""
    places = [path for path in (toolkit.python, toolkit.code) if path.startswith(f"{store}/")]
    names = {path[len(store) + 1 :].partition("/")[0] for path in places}
    return sorted(f"{store}/{name}" for name in names)
