# SPDX-License-Identifier: GPL-3.0-or-later
"""Real daemons for the storm, as the tests of the daemon have them."""

from tests.storedaemon.conftest import start_daemon

__all__ = ["start_daemon"]
