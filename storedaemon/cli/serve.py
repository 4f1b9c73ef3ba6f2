# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon serve`: puts the configuration together and hands over to the daemon."""

import os
from argparse import Namespace
from pathlib import Path

from storedaemon.config import (
    COMMAND_LINE,
    Config,
    ConfigError,
    Source,
    environment_source,
    make_config,
    toml_source,
)
from storedaemon.option_table import OPTIONS


def run(options: Namespace) -> int:
    """Serve until a signal; give the exit code."""
    config = configuration(options)
    # The daemon's modules are heavy, and a mistaken option should not wait for them.
    from storedaemon import serve  # noqa: PLC0415

    return serve.main(config)


def configuration(options: Namespace) -> Config:
    """Merge command line, configuration file and environment, in this order of precedence.

    Raises:
        ConfigError: Names the source, the option and what would be allowed.
    """
    values = {option.name: getattr(options, option.name) for option in OPTIONS}
    sources = [Source(COMMAND_LINE, values, os.getcwd())]
    if options.config:
        sources.append(_file_source(Path(options.config)))
    return make_config([*sources, environment_source(os.environ)])


def _file_source(path: Path) -> Source:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    return toml_source(text, str(path), str(path.absolute().parent))
