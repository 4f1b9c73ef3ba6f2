# SPDX-License-Identifier: GPL-3.0-or-later
"""Run with ``python -m storedaemon.guix_daemon``, as ``contrib/guix-daemon`` does."""

import sys

from storedaemon.guix_daemon.main import main

sys.exit(main())
