# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m locker`: the locker process; see `locker.main`."""

import sys

from locker.main import main

sys.exit(main())
