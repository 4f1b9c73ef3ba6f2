# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of guix-daemon, and what they mean to this daemon; pure.

Texts of errors are those of the C++ daemon, as scripts may look for them.
Entry point: `translate`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from store.errors import StoreError
from storedaemon.config import MAX_NUMBER
from storedaemon.guix_daemon.argp import ArgpOption, Given

OPTIONS: tuple[ArgpOption, ...] = (
    ArgpOption("system", "take this machine for a SYSTEM", "SYSTEM"),
    ArgpOption("cores", "tell each build to use N cores; 0 means all there are", "N", short="c"),
    ArgpOption("max-jobs", "build at most N derivations at once", "N", short="M"),
    ArgpOption("timeout", "end builds that take longer than SECONDS", "SECONDS"),
    ArgpOption("max-silent-time", "end builds that print nothing for SECONDS", "SECONDS"),
    ArgpOption("disable-chroot", "run builds without a container"),
    ArgpOption("chroot-directory", "let builds see DIR, too", "DIR"),
    ArgpOption("build-users-group", "run builds as members of GROUP", "GROUP"),
    ArgpOption("no-substitutes", "use no substitutes"),
    ArgpOption("substitute-urls", "look for substitutes at URLS by default", "URLS"),
    ArgpOption("no-offload", "leave no builds to other machines"),
    ArgpOption("no-build-hook", hidden=True, same_as="no-offload"),
    ArgpOption("cache-failures", "remember failed builds"),
    ArgpOption("rounds", "build each derivation N times and compare", "N"),
    ArgpOption("lose-logs", "keep no build logs"),
    ArgpOption("disable-log-compression", hidden=True),
    ArgpOption("log-compression", "compress build logs as TYPE: gzip, bzip2 or none", "TYPE"),
    ArgpOption(
        "discover", "look for substitute servers in the local network", "yes/no", optional=True
    ),
    ArgpOption("disable-deduplication", "let equal files of the store be separate"),
    ArgpOption("disable-store-optimization", hidden=True, same_as="disable-deduplication"),
    ArgpOption("impersonate-linux-2.6", "show builds a kernel named 2.6"),
    ArgpOption(
        "gc-keep-outputs",
        "whether the collector keeps the outputs of live derivations",
        "yes/no",
        optional=True,
    ),
    ArgpOption(
        "gc-keep-derivations",
        "whether the collector keeps the derivers of live items",
        "yes/no",
        optional=True,
    ),
    ArgpOption("listen", "listen on SOCKET: a file name, HOST, or HOST:PORT", "SOCKET"),
    ArgpOption("debug", "report more"),
    ArgpOption(
        "isolate-host-loopback", "keep builds that may use the network from this machine's own"
    ),
)

# Their settings are named as in messages to the daemon, and checked when all is read.
_NUMBERS: Mapping[str, str] = {
    "cores": "build-cores",
    "max-jobs": "build-max-jobs",
    "timeout": "build-timeout",
    "max-silent-time": "build-max-silent-time",
}
_SAME = frozenset({"system", "build-users-group", "substitute-urls", *_NUMBERS})
_FLAGS = frozenset(
    {
        "disable-chroot",
        "no-substitutes",
        "no-offload",
        "cache-failures",
        "lose-logs",
        "disable-deduplication",
        "impersonate-linux-2.6",
        "isolate-host-loopback",
    }
)
_SWITCHES = frozenset({"discover", "gc-keep-outputs", "gc-keep-derivations"})
_COMPRESSIONS = ("none", "gzip", "bzip2")


class OptionError(StoreError):
    """An option's argument is wrong; the exit status is 1."""


def translate(given: Iterable[Given]) -> dict[str, Any]:
    """Give what the options say as values of the daemon's own options.

    Each is judged as it comes, numbers at the end, as the C++ daemon does.

    Raises:
        OptionError: An argument is wrong.
    """
    values: dict[str, Any] = {}
    for key, argument in given:
        _take(values, key, argument or "", missing=argument is None)
    for name in _NUMBERS.keys() & values.keys():
        values[name] = _number(name, values[name])
    return values


def _take(values: dict[str, Any], key: str, argument: str, *, missing: bool) -> None:
    if key in _FLAGS:
        values[key] = True
    elif key in _SWITCHES:
        values[key] = missing or _boolean(argument)
    elif key in _SAME:
        values[key] = argument
    else:
        _SPECIAL[key](values, argument)


def _boolean(argument: str) -> bool:
    if argument.lower() not in ("yes", "no"):
        raise OptionError(f"'{argument}': invalid Boolean value")
    return argument.lower() == "yes"


def _number(name: str, text: str) -> int:
    digits = text.strip(" ").removeprefix("+")
    if digits.isascii() and digits.isdigit() and len(digits) <= 10 and int(digits) <= MAX_NUMBER:
        return int(digits)
    raise OptionError(f"configuration setting `{_NUMBERS[name]}' should have an integer value")


def _listen(values: dict[str, Any], argument: str) -> None:
    values.setdefault("listen-guix", []).append(argument)


def _chroot_directory(values: dict[str, Any], argument: str) -> None:
    """Add directories; the C++ daemon, too, takes several in one argument."""
    values.setdefault("chroot-directory", []).extend(argument.split())


def _log_compression(values: dict[str, Any], argument: str) -> None:
    if argument not in _COMPRESSIONS:
        raise OptionError(f"{argument}: unknown compression type")
    values["log-compression"] = argument


def _no_log_compression(values: dict[str, Any], _argument: str) -> None:
    values["log-compression"] = "none"


def _rounds(values: dict[str, Any], argument: str) -> None:
    digits = argument.strip(" ").removeprefix("+") or "0"
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise OptionError(f"{argument}: invalid number of rounds")
    values["rounds"] = max(1, int(digits))


def _debug(values: dict[str, Any], _argument: str) -> None:
    values["log-level"] = "debug"


_SPECIAL: Mapping[str, Callable[[dict[str, Any], str], None]] = {
    "listen": _listen,
    "chroot-directory": _chroot_directory,
    "log-compression": _log_compression,
    "disable-log-compression": _no_log_compression,
    "rounds": _rounds,
    "debug": _debug,
}
