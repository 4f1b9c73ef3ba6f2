# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of the daemon, named once.

The name is the key in a TOML file and, after ``--``, the option on the command
line. How values are merged and checked is `storedaemon.config`'s business.
"""

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_STATE = "/var/guix"
RETRY_CAUSES = ("exit", "signal", "memory", "timeout", "silence")
SUBSTITUTE_URLS = "https://bordeaux.guix.gnu.org https://ci.guix.gnu.org"


class ValueType(StrEnum):
    """What the value of an option is."""

    TEXT = "text"
    PATH = "file name"
    SOCKET = "socket"
    NUMBER = "number"
    BIND = "directory, or TARGET=DIRECTORY with an absolute target"
    SHARE = "USER=N or @GROUP=N with N from 1 to 1000"
    FLAG = "true or false"
    SWITCH = "yes or no"
    CHOICE = "choice"


Value = str | int | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: As in TOML, and after ``--`` on the command line.
        type: What a value is; of a repeatable option, what each value is.
        help: One line for ``--help``.
        metavar: What stands for the value in ``--help``; empty for flags.
        default: The value when nobody names one; None where it follows from others.
        repeatable: Whether it holds a list: repeated on the command line, an array in TOML.
        choices: All values of a `CHOICE`.
        minimum: The smallest `NUMBER`.
        environment: Variables that give it, the first that is set winning.
        field: The attribute of `Config`, where it is not the name with underscores.
    """

    name: str
    type: ValueType
    help: str
    metavar: str = ""
    default: Value = None
    repeatable: bool = False
    choices: tuple[str, ...] = ()
    minimum: int = 0
    environment: tuple[str, ...] = ()
    field: str = ""

    @property
    def attribute(self) -> str:
        """The attribute of `Config` that holds the value."""
        return self.field or self.name.replace("-", "_")


def _directory(name: str, field: str, text: str, *variables: str, default: Value = None) -> Option:
    return Option(name, ValueType.PATH, text, "DIR", default, environment=variables, field=field)


def _flag(name: str, text: str) -> Option:
    return Option(name, ValueType.FLAG, text, default=False)


def _switch(name: str, text: str, *, default: bool) -> Option:
    return Option(name, ValueType.SWITCH, text, "yes|no", default)


def _number(name: str, text: str, default: int, metavar: str = "N", minimum: int = 0) -> Option:
    return Option(name, ValueType.NUMBER, text, metavar, default, minimum=minimum)


def _list(name: str, kind: ValueType, text: str, metavar: str, field: str = "") -> Option:
    return Option(name, kind, text, metavar, (), repeatable=True, field=field)


def _choice(name: str, text: str, default: str, *choices: str) -> Option:
    return Option(name, ValueType.CHOICE, text, "|".join(choices), default, choices=choices)


OPTIONS: tuple[Option, ...] = (
    _directory(
        "store",
        "store",
        "the store directory (/gnu/store)",
        "NIX_STORE_DIR",
        "NIX_STORE",
        default="/gnu/store",
    ),
    _directory(
        "state",
        "state",
        "roots, profiles, sockets (/var/guix)",
        "GUIX_STATE_DIRECTORY",
        default=DEFAULT_STATE,
    ),
    _directory(
        "database-directory", "database", "the database (STATE/db)", "GUIX_DATABASE_DIRECTORY"
    ),
    _directory(
        "log-directory",
        "logs",
        "build logs (/var/log/guix; STATE/log when --state is elsewhere)",
        "GUIX_LOG_DIRECTORY",
    ),
    _directory(
        "configuration-directory",
        "configuration",
        "keys and the access-control list (/etc/guix; STATE/etc when --state is elsewhere)",
        "GUIX_CONFIGURATION_DIRECTORY",
    ),
    _directory(
        "build-directory",
        "build_directory",
        "where build directories are made (/tmp)",
        "TMPDIR",
        default="/tmp",  # noqa: S108 - builds get a private directory inside it
    ),
    _list("listen", ValueType.PATH, "listen on a Unix socket for native clients", "PATH"),
    _list(
        "listen-guix",
        ValueType.SOCKET,
        "listen for Guix clients: a Unix socket, or HOST[:PORT]",
        "ADDRESS",
    ),
    _flag("take-over-sockets", "replace socket files that another daemon listens on"),
    Option(
        "build-users-group", ValueType.TEXT, "run builds as the members of a group", "GROUP", ""
    ),
    Option(
        "guix-program",
        ValueType.PATH,
        "the program guix, whose helpers are used (found on PATH, or root's current guix)",
        "FILE",
        "",
        environment=("GUIX",),
    ),
    _flag("no-offload", "do not ask `guix offload' to have builds done by other machines"),
    Option("system", ValueType.TEXT, "the system whose builders run here", "SYSTEM", ""),
    _number("max-jobs", "build at most N derivations at once; 0: leave all to other machines", 1),
    _number("cores", "tell each build to use N cores; 0: all there are", 0),
    _flag("jobserver", "share processors among the jobs of all builds, as GNU make's jobserver"),
    _choice("jobserver-for", "builds that do so, unless they say otherwise", "all", "all", "asked"),
    _number("jobserver-tokens", "jobs that all builds together may run; 0: one a processor", 0),
    _number("workers", "processes that hash and scan store items; 0: one a processor", 0),
    _list(
        "chroot-directory",
        ValueType.BIND,
        "let builds see a directory of the host, read-only",
        "DIR|TARGET=DIR",
        field="chroot_directories",
    ),
    _flag("disable-chroot", "run builds without a container"),
    _choice(
        "fixed-output-network",
        "what network downloads have; auto is slirp4netns where that is installed, else none",
        "auto",
        "auto",
        "slirp4netns",
        "host",
        "none",
    ),
    _flag("isolate-host-loopback", "keep builds that may use the network from this machine's own"),
    Option(
        "slirp4netns",
        ValueType.TEXT,
        "the program slirp4netns (found on PATH)",
        "FILE",
        "slirp4netns",
    ),
    _list(
        "content-source",
        ValueType.PATH,
        "look for the contents of fixed outputs in this directory, such as a mounted medium",
        "DIR",
        field="content_sources",
    ),
    _list(
        "content-addressed-mirror",
        ValueType.TEXT,
        "look for downloads by their content; with {name}, {algorithm}, {base16}, {base32}",
        "URL",
        field="content_addressed_mirrors",
    ),
    _number("max-download-size", "refuse to download larger files; 0: never", 0, "BYTES"),
    _number("timeout", "end a build after that many seconds; 0: never", 86400, "SECONDS"),
    _number(
        "max-silent-time",
        "end a build that prints nothing that long; 0: never",
        3600,
        "SECONDS",
    ),
    _number("rounds", "build each derivation N times and compare", 1, minimum=1),
    _flag("no-substitutes", "do not use substitutes"),
    Option(
        "substitute-urls",
        ValueType.TEXT,
        "where substitutes are looked for, unless a client says otherwise",
        "URLS",
        SUBSTITUTE_URLS,
    ),
    _number("max-substitutes", "download at most N substitutes at once", 4, minimum=1),
    _switch("discover", "look for substitute servers in the local network", default=False),
    _switch(
        "gc-keep-outputs", "the collector keeps the outputs of live derivations", default=False
    ),
    _switch("gc-keep-derivations", "the collector keeps the derivers of live items", default=True),
    _number("keep-detached", "keep results that nobody fetches for so long", 86_400, "SECONDS"),
    _number("max-shells", "let N shells of 'enter' run at once, half for one user; 0: none", 4),
    _number("shell-idle", "end one that is silent for so long; 0: never", 14_400, "SECONDS"),
    _number(
        "attempts", "build a derivation up to N times if a quieter machine may help", 3, minimum=1
    ),
    _number("retry-delay", "wait before a failed build is tried again", 0, "SECONDS"),
    _number("retry-cores", "tell a build that is tried again to use N cores; 0: as before", 0),
    _number(
        "retry-patience", "start nothing else before a build that waits so long", 600, "SECONDS"
    ),
    Option(
        "retry-on",
        ValueType.CHOICE,
        "what is tried again; repeat it for several (all)",
        "CAUSE",
        RETRY_CAUSES,
        repeatable=True,
        choices=RETRY_CAUSES,
    ),
    _number("quiet-load", "below this load the machine is quiet; 0: only if nothing runs", 0),
    _number("quiet-pressure", "below this pressure it is; 0: only if nothing runs", 0, "PERCENT"),
    _number("quiet-memory", "memory that a quiet machine has", 0, "MIB"),
    _number("max-load", "start no build beside others at this load; 0: at any", 0),
    _number("max-cpu-pressure", "likewise at this pressure on processors", 0, "PERCENT"),
    _number("max-memory-pressure", "likewise at this pressure on memory", 20, "PERCENT"),
    _number("max-io-pressure", "likewise at this pressure on disks", 0, "PERCENT"),
    _number("spare-memory", "leave that much memory to the rest of the machine", 256, "MIB"),
    _number("max-build-memory", "let a build have at most that much, unless it is alone", 0, "MIB"),
    _choice("log-compression", "how build logs are stored", "gzip", "gzip", "bzip2", "none"),
    _flag("lose-logs", "keep no build logs"),
    _number("max-log-size", "end a build whose log grows beyond it; 0: never", 0, "BYTES"),
    _flag("cache-failures", "remember builds that failed"),
    _flag("disable-deduplication", "do not share equal files of the store"),
    Option(
        "impersonate-linux-2.6",
        ValueType.FLAG,
        "let builds see a kernel named 2.6",
        default=False,
        field="impersonate_linux_26",
    ),
    _list(
        "trusted-user",
        ValueType.TEXT,
        "trust what this user asks, beside root",
        "USER|@GROUP",
        field="trusted_users",
    ),
    _list(
        "shares",
        ValueType.SHARE,
        "give this user N times the slots of others; in a file, a table",
        "USER|@GROUP=N",
    ),
    _number("max-connections", "serve at most N clients at once", 4096, minimum=1),
    _number("max-request-memory", "let long requests wait beyond it", 256, "MIB", minimum=1),
    _choice("log-level", "what the daemon reports", "info", "debug", "info", "warning", "error"),
    _choice("log-format", "how the daemon reports it", "auto", "auto", "console", "json"),
)
