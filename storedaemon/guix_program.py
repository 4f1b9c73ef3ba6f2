# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the program ``guix`` is, whose helpers the daemon starts, and what it has to know.

Entry points: `find_guix`, `guix_environment`.
"""

import shutil
from collections.abc import Mapping

from storedaemon.config import Config

# What the service manager tells the daemon alone.
_NOT_PASSED_ON = frozenset({"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})


def find_guix(config: Config, environment: Mapping[str, str]) -> str:
    """Return the absolute file name of ``guix``, whether or not there is such a program.

    It is what the owner chose, or else the one on ``PATH``, or else the one that
    ``guix pull`` made for root.
    """
    current = f"{config.state}/profiles/per-user/root/current-guix/bin/guix"
    return config.guix_program or shutil.which("guix", path=environment.get("PATH")) or current


def guix_environment(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of helpers: the daemon's own, and where its store is."""
    layout = config.layout
    return {
        **{name: value for name, value in environment.items() if name not in _NOT_PASSED_ON},
        "NIX_STORE_DIR": layout.store,
        "GUIX_STATE_DIRECTORY": config.state,
        "GUIX_DATABASE_DIRECTORY": config.database,
        "GUIX_LOG_DIRECTORY": config.logs,
        "GUIX_CONFIGURATION_DIRECTORY": config.configuration,
    }
