# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the spawner: `python -m builder.spawner`, by `locker.start.start_helper`."""

from builder.spawner.main import main

main()
