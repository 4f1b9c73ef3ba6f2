# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the program ``guix`` is, whose helpers the daemon starts. Entry point: `find_guix`."""

import shutil
from collections.abc import Mapping

from storedaemon.config import Config


def find_guix(config: Config, environment: Mapping[str, str]) -> str:
    """Return the absolute file name of ``guix``, whether or not there is such a program.

    It is what the owner chose, or else the one on ``PATH``, or else the one that
    ``guix pull`` made for root.
    """
    current = f"{config.state}/profiles/per-user/root/current-guix/bin/guix"
    return config.guix_program or shutil.which("guix", path=environment.get("PATH")) or current
