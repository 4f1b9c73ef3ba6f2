# SPDX-License-Identifier: GPL-3.0-or-later
"""The program guix-daemon: its command line and environment in, a running daemon out.

The command line goes before the environment, as in the C++ daemon, and that
before the file ``storedaemon.toml`` in the configuration directory, which may
say what guix-daemon has no option for. Entry points: `main`, `configuration`.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from store.errors import StoreError
from storedaemon.config import (
    COMMAND_LINE,
    Config,
    ConfigError,
    Source,
    environment_source,
    guix_socket,
    make_config,
    toml_source,
)
from storedaemon.guix_daemon.argp import Given, UsageError, read_options
from storedaemon.guix_daemon.translation import OPTIONS, translate
from storedaemon.option_table import OPTIONS as DAEMON_OPTIONS
from storedaemon.sockets import Claim
from storedaemon.version import VERSION

PROGRAM = "guix-daemon"
FILE = "storedaemon.toml"
WRONG_USAGE = 64

# Where the C++ daemon has them wherever its state is, and how it takes its socket.
DEFAULTS: Mapping[str, str | bool] = {
    "log-directory": "/var/log/guix",
    "configuration-directory": "/etc/guix",
    "take-over-sockets": True,
}

_SUMMARY = "build derivations, and keep the store"
_EPILOGUE = (
    "This is storedaemon in the place of the C++ program of this name. It serves clients"
    " over sockets, adds to the store for them, and builds derivations on their behalf."
)


def main(words: Sequence[str] | None = None, claims: Mapping[str, Claim] | None = None) -> int:
    """Run the program, and give its exit code.

    Args:
        words: The command line without the program's name; None for the process's.
        claims: Sockets that listen already, by addresses.

    Raises:
        SystemExit: The command line asks for no daemon (0), or is wrong (64).
    """
    try:
        values = translate(_settings(sys.argv[1:] if words is None else words))
        config = configuration(values, os.environ, os.getcwd())
    except StoreError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    if os.geteuid() == 0 and not config.build_users_group:
        sys.stderr.write("warning: the daemon runs as root; it should have `--build-users-group'\n")
    # The daemon's modules are heavy, and a mistaken option should not wait for them.
    from storedaemon import serve  # noqa: PLC0415

    return serve.main(config, claims)


def _settings(words: Sequence[str]) -> Iterator[Given]:
    """Yield the options that configure the daemon; do at once what others ask for."""
    program = PROGRAM
    try:
        for key, argument in read_options(OPTIONS, words):
            if key == "program-name":
                program = os.path.basename(argument or "")
            elif key == "HANG":
                time.sleep(int(argument) if argument and argument.isdigit() else 3600)
            elif key in ("help", "usage", "version"):
                sys.stdout.write(_answer(key, program))
                raise SystemExit(0)
            else:
                yield key, argument
    except UsageError as error:
        sys.stderr.write(
            f"{program}: {error}\n"
            f"Try `{program} --help' or `{program} --usage' for more information.\n"
        )
        raise SystemExit(WRONG_USAGE) from error


def _answer(question: str, program: str) -> str:
    # Laying out text takes modules that a daemon should not wait for.
    from storedaemon.guix_daemon.texts import help_text, usage_text  # noqa: PLC0415

    if question == "help":
        return help_text(program, _SUMMARY, OPTIONS, _EPILOGUE)
    if question == "usage":
        return usage_text(program, OPTIONS)
    return f"{PROGRAM} (storedaemon) {VERSION}\n"


def configuration(
    values: Mapping[str, Any], environment: Mapping[str, str], directory: str
) -> Config:
    """Put the configuration together.

    Args:
        values: What the command line says, translated.
        environment: The process's.
        directory: Where relative file names of the command line start.

    Raises:
        StoreError: Something is not as it must be; the message says what.
    """
    options = Source(COMMAND_LINE, values, directory)
    variables = environment_source(environment)
    _refuse_relative(environment)
    defaults = Source("default", DEFAULTS)
    place = make_config([options, variables, defaults]).configuration
    config = make_config([options, variables, *_file(Path(place, FILE)), defaults])
    if config.listen and not config.listen_guix:
        return replace(config, listen_guix=(guix_socket(config.state),))
    return config


def _refuse_relative(environment: Mapping[str, str]) -> None:
    for option in DAEMON_OPTIONS:
        for value in map(environment.get, option.environment):
            if value and not value.startswith("/"):
                raise ConfigError(f"not an absolute path: `{value}'")


def _file(path: Path) -> Iterator[Source]:
    """Read the file that may say more than the command line can, where there is one."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    yield toml_source(text, str(path), str(path.parent))
