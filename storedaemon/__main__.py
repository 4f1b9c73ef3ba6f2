# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets ``python -m storedaemon`` be the command line."""

import sys

from storedaemon.cli.main import main

sys.exit(main())
