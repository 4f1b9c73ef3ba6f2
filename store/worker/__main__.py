# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m store.worker`: a store worker; see `store.worker.main`."""

import sys

from store.worker.main import main

sys.exit(main())
