# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine has for the builders that are part of the daemon.

Entry points: `find_toolkit` and `usable_guix`.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping

from builder.builtins import LIBRARIES, Toolkit


def find_toolkit(store: str, environment: Mapping[str, str]) -> Toolkit:
    """Find what our own downloader is made of.

    Args:
        store: The store; what lies there is not shown as a directory of the host.
        environment: The daemon's.
    """
    python = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    shown = {python, *LIBRARIES}
    if sys.base_prefix != "/usr":
        shown.add(os.path.realpath(sys.base_prefix))
    shown |= {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    named = ((name, environment.get(name, "")) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    return Toolkit(
        python=python,
        shown=tuple(sorted(path for path in shown if not path.startswith(f"{store}/"))),
        code=os.path.join(os.path.dirname(os.path.realpath(__file__)), "download"),
        # Only there does the container have everything that git consists of.
        git=shutil.which("git", path="/usr/bin:/bin") or "",
        certificates=tuple((name, path) for name, path in named if path.startswith("/")),
    )


def usable_guix(program: str, *, has_users: bool) -> str:
    """Give the program guix if it is there and would not refuse: it does for root."""
    usable = has_users or os.geteuid() != 0
    return program if program and usable and os.access(program, os.X_OK) else ""
