# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line's grammar."""

import argparse
from collections.abc import Callable, Container

from storedaemon.cli import values
from storedaemon.cli.exits import HELP
from storedaemon.option_table import OPTIONS, Option, ValueType
from storedaemon.version import VERSION

_BEING_BUILT = "a derivation that is being built"

SOCKET_VARIABLE = "STOREDAEMON_SOCKET"

Adder = Callable[[argparse.ArgumentParser], None]


def make_parser(words: Container[str]) -> argparse.ArgumentParser:
    """Make the parser of a command line.

    Args:
        words: Those of the command line; commands that are not among them get no arguments,
            since making all would take longer than many a command does.
    """
    parser = argparse.ArgumentParser(
        prog="storedaemon",
        description="The build daemon of a functional package store, and its client.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"storedaemon {VERSION}")
    _add_common(parser, socket=None, json=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (text, add_arguments) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name != "serve":
            _add_common(command, socket=argparse.SUPPRESS, json=argparse.SUPPRESS)
        if name in words:
            add_arguments(command)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, socket: str | None, json: bool | str) -> None:
    """Add what is understood before the command, and after it as well."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=socket,
        help=f"the daemon's native socket (${SOCKET_VARIABLE})",
    )
    parser.add_argument("--json", action="store_true", default=json, help="print JSON for programs")


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", help="read these options from a TOML file as well"
    )
    for option in OPTIONS:
        _add_option(parser, option)


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    flag, text = f"--{option.name}", _help(option)
    if option.type is ValueType.FLAG:
        parser.add_argument(flag, dest=option.name, action="store_true", default=None, help=text)
        return
    if option.type is ValueType.SWITCH:
        parser.add_argument(
            flag, dest=option.name, nargs="?", const="yes", metavar="yes|no", help=text
        )
        return
    action = "append" if option.repeatable else "store"
    parser.add_argument(flag, dest=option.name, action=action, metavar=option.metavar, help=text)


def _help(option: Option) -> str:
    """Describe an option, with its default where the description lacks that."""
    match option.type:
        case ValueType.SWITCH:
            return f"{option.help} ({'yes' if option.default else 'no'})"
        case ValueType.NUMBER | ValueType.CHOICE:
            return f"{option.help} ({option.default})"
        case _:
            return option.help


def _build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        nargs="+",
        type=values.target,
        metavar="TARGET",
        help="derivations in the store, with !OUTPUT,… to select outputs;"
        " or a recipe file (.toml) and names of derivations in it",
    )
    parser.add_argument("-k", "--keep-going", action="store_true", help="build what can be built")
    parser.add_argument(
        "-K", "--keep-failed", action="store_true", help="keep the directories of failed builds"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print results and errors only")
    _print_log(parser)
    parser.add_argument(
        "--detach", action="store_true", help="do not wait; print a number for 'attach'"
    )
    parser.add_argument(
        "-o", "--link", metavar="PATH", help="make a symbolic link to the result, and keep it"
    )
    parser.add_argument(
        "--no-offload", action="store_true", help="have nothing built by other machines"
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="tell what would be built and downloaded"
    )
    _substitutes_from(parser)
    parser.add_argument(
        "--no-substitutes", action="store_true", help="build even what could be downloaded"
    )
    parser.add_argument("--fallback", action="store_true", help="build where a download fails")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="build again and compare")
    mode.add_argument("--repair", action="store_true", help="substitute or build what is damaged")
    for name, text in (
        ("cores", "how many cores a build may use; 0: all"),
        ("max-jobs", "how many builds may run at once"),
        ("timeout", "seconds after which a build is ended; 0: never"),
        ("max-silent-time", "seconds of silence after which a build is ended; 0: never"),
        ("rounds", "build each derivation that often and compare"),
        ("attempts", "build up to N times if a quieter machine may help"),
        ("retry-delay", "seconds before a failed build is tried again"),
        ("retry-cores", "how many cores a build that is tried again may use"),
    ):
        parser.add_argument(f"--{name}", type=values.number, metavar="N", help=text)


def _substitutes_from(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--substitute-urls", metavar="URLS", help="look for substitutes there instead"
    )


def _substitutes(parser: argparse.ArgumentParser) -> None:
    _path(parser)
    _substitutes_from(parser)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a local file or directory")
    parser.add_argument("--name", help="the item's name, for a single PATH (its file name)")
    parser.add_argument(
        "--flat", action="store_true", help="address a file by the hash of its bytes alone"
    )
    parser.add_argument(
        "--hash", default="sha256", metavar="ALGORITHM", help="the algorithm of the hash"
    )


def _path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=values.item, metavar="ITEM", help="a store item")


def _references(parser: argparse.ArgumentParser) -> None:
    _path(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--referrers", action="store_true", help="what refers to the items instead")
    which.add_argument("--closure", action="store_true", help="follow references all the way")


def _export(parser: argparse.ArgumentParser) -> None:
    _path(parser)
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="export all that the items refer to as well"
    )
    parser.add_argument(
        "--sign",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="have the daemon's key vouch for the items, as importing them needs (the default)",
    )


def _import_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="a public key as Guix has it; - for standard input"
    )
    _configuration(parser)


def _configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--configuration-directory",
        metavar="DIR",
        help="where keys and the access-control list are (as for serve)",
    )


def _log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "item", type=values.item, metavar="ITEM", help="a derivation, or something it made"
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the build ends, if it is running"
    )
    parser.add_argument(
        "--attempt",
        type=values.number,
        metavar="N",
        help="the log of that attempt, not of the last",
    )


def _ps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-w", "--watch", action="store_true", help="show it again and again, until interrupted"
    )
    parser.add_argument(
        "--interval", type=values.interval, default=1.0, metavar="SECONDS", help="how often (1)"
    )


def _attach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "build",
        type=values.item,
        metavar="BUILD",
        help="a detached build's number, or a derivation being built",
    )
    _quiet(parser)
    _print_log(parser)


def _detached(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--end", type=values.number, metavar="N", help="end that build, or forget its result"
    )


def _print_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-L", "--print-log", action="store_true", help="print build output on a terminal, too"
    )


def _priority(parser: argparse.ArgumentParser) -> None:
    _being_built(parser)
    parser.add_argument(
        "priority",
        type=values.priority,
        metavar="N",
        help="from -1000 to 1000; builds begin with 0",
    )


def _cancel(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("drv", nargs="?", type=values.item, metavar="DERIVATION", help=_BEING_BUILT)
    which.add_argument(
        "--shell",
        type=values.number,
        metavar="N",
        help="end that shell of 'enter', as ps numbers it",
    )


def _being_built(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("drv", type=values.item, metavar="DERIVATION", help=_BEING_BUILT)


def _enter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "drv", type=values.item, metavar="DERIVATION", help="a derivation whose build failed"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin with a new build directory, not a kept one"
    )
    parser.add_argument(
        "--command",
        nargs=argparse.REMAINDER,
        default=[],
        dest="words",
        metavar="WORD",
        help="run this instead of a shell; all that follows belongs to it",
    )


def _gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--delete",
        nargs="+",
        type=values.item,
        metavar="PATH",
        help="delete these items and what refers to them, unless a root keeps them",
    )
    parser.add_argument(
        "--limit",
        type=values.size,
        metavar="SIZE",
        help="stop when more than SIZE is freed (10G, 500M)",
    )
    parser.add_argument(
        "--free", type=values.size, metavar="SIZE", help="stop when SIZE is free on the file system"
    )
    parser.add_argument(
        "--older-than",
        type=values.duration,
        metavar="TIME",
        help="delete only what nothing has used for so long (30d, 12h)",
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="tell what would be deleted")
    _quiet(parser)


def _roots(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="*",
        type=values.item,
        metavar="ITEM",
        help="tell what keeps these items, and how",
    )
    parser.add_argument(
        "--add",
        action="append",
        metavar="LINK",
        help="let a symbolic link keep what it points to, as long as it exists",
    )


def _attempts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "drv", type=values.item, metavar="DERIVATION", help="a derivation that was built"
    )


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--contents", action="store_true", help="hash all items, to find changed ones"
    )
    parser.add_argument(
        "-r", "--repair", action="store_true", help="substitute what is damaged, or build it again"
    )
    _quiet(parser)


def _repair(parser: argparse.ArgumentParser) -> None:
    _path(parser)
    _quiet(parser)


def _quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="print results and errors only")


def _failed_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clear", action="store_true", help="forget the failures of PATHs, or all of them"
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=values.item,
        metavar="PATH",
        help="an output or derivation, for --clear",
    )


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""


_COMMANDS: dict[str, tuple[str, Adder]] = {
    "serve": ("run the daemon", _serve),
    "build": ("build derivations", _build),
    "add": ("add files and directories to the store", _add),
    "path-info": ("show what is registered of items", _path),
    "references": ("list what items refer to", _references),
    "export": ("write items of the store to standard output, for another store", _export),
    "import": ("add the items on standard input that another store exported", _nothing),
    "import-key": ("accept items that a key has signed", _import_key),
    "generate-key": ("make the key that signs exported items", _configuration),
    "attempts": ("show how often a derivation was built, and how that went", _attempts),
    "flaky": ("list what has failed, and passed when the machine was quieter", _nothing),
    "content-sources": ("show what is known of media with the contents of outputs", _nothing),
    "substitutes": ("show which items can be downloaded", _substitutes),
    "log": ("print the log of a build", _log),
    "ps": ("show what is being built, and what waits", _ps),
    "events": ("print what happens to builds, until interrupted", _nothing),
    "stats": ("show how the daemon and its caches do", _nothing),
    "cancel": ("end a build for all who want it, or a shell", _cancel),
    "detach": ("let a build go on when those who asked for it leave", _being_built),
    "attach": ("follow a build to its end, and take its result", _attach),
    "detached": ("list the builds that go on by themselves, and their results", _detached),
    "priority": ("let a build start before others of its user, or after them", _priority),
    "enter": ("run a shell in the place of a builder", _enter),
    "gc": ("delete items that nothing keeps", _gc),
    "roots": ("list what keeps items, or tell why some are kept", _roots),
    "verify": ("compare the store with its database", _verify),
    "repair": ("substitute items that are damaged, or build them again", _repair),
    "optimise": ("let equal files share their contents", _quiet),
    "failed-paths": ("list or forget builds that are remembered as failed", _failed_paths),
    "version": ("show the versions of this program and of the daemon", _nothing),
}
