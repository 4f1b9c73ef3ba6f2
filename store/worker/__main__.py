# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a store worker: `python -m store.worker`, by `locker.start.start_helper`."""

from store.worker.main import main

main()
