# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m store.signatures``; see `store.signatures.server`."""

import sys

from store.signatures.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
