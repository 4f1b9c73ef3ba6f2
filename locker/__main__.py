# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m locker`: the locker process; see `locker.main`."""

import os
import sys

from locker.main import main

code = main()
sys.stderr.flush()
# Threads that still wait for locks are not unwound: that needs a library, and so a path.
os._exit(code)
