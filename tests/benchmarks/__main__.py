# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks, run as ``python tests/benchmarks``; ``--help`` tells the options."""

import sys
from pathlib import Path

# The interpreter put this directory here; what the benchmarks import starts at the project's.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.benchmarks.run import main  # noqa: E402 - it is found only now

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
