# SPDX-License-Identifier: GPL-3.0-or-later
"""Exit codes; `docs/cli.md` and ``--help`` list them."""

from enum import IntEnum


class Exit(IntEnum):
    """What the process tells whoever started it."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NO_DAEMON = 3
    BUILD_FAILED = 100
    BUILD_TIMED_OUT = 101
    DAMAGED = 102
    INTERRUPTED = 130


HELP = """\
exit codes:
  0    done
  1    it could not be done; standard error says why
  2    the command line is wrong
  3    no daemon answers at the socket
  100  a build failed, and would fail again
  101  a build took too long, or was silent too long
  102  the store is damaged
  130  interrupted
"""
